// Memory straight from the system: anonymous, zero, in huge pages where these are wanted and granted.
#pragma once
#include <cstddef>
#include <cstdint>

namespace outpace {

class Pages {
 public:
  // Takes address space; pages come as they are written to. Throws std::bad_alloc where there is none.
  Pages(size_t bytes, bool huge);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_;  // at a multiple of the size of a huge page
  void* mapped_;
  size_t mapped_bytes_;
};

}  // namespace outpace
