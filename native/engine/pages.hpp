// Memory straight from the system: anonymous, zero, in huge pages where these are wanted and granted.
#pragma once
#include <cstddef>
#include <cstdint>

namespace outpace {

class Pages {
 public:
  Pages() = default;
  // Takes address space; pages come as they are written to. Throws std::bad_alloc where there is none.
  Pages(size_t bytes, bool huge);
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;
  ~Pages();

  uint8_t* data() const { return data_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  uint8_t* data_ = nullptr;  // at a multiple of the size of a huge page
  void* mapped_ = nullptr;
  size_t mapped_bytes_ = 0;
};

}  // namespace outpace
