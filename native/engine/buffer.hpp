// Memory that only grows, so that a hot path soon allocates nothing; aligned to pages.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace outpace {

class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // At least so many bytes, zero where they are new; what was there is lost when they have to grow.
  uint8_t* bytes(size_t count) {
    if (count > size_) {
      std::free(data_);
      size_ = (count + count / 4 + 4095) / 4096 * 4096;
      data_ = static_cast<uint8_t*>(std::aligned_alloc(4096, size_));
      if (!data_) {
        size_ = 0;
        throw std::bad_alloc();
      }
      std::memset(data_, 0, size_);
    }
    return data_;
  }
  float* floats(size_t count) { return reinterpret_cast<float*>(bytes(count * sizeof(float))); }
  // Of rows of so many floats, as far as there is room for them.
  float* row(size_t i, int width) { return floats(0) + i * width; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace outpace
