#include "engine/pages.hpp"

#include <sys/mman.h>

#include <new>

namespace outpace {
namespace {

constexpr size_t kHugePage = 2 << 20;

}  // namespace

Pages::Pages(size_t bytes, bool huge) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  const size_t rounded = (bytes + kHugePage) / kHugePage * kHugePage;
  mapped_bytes_ = rounded + kHugePage;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;
#endif
  mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapped_ == MAP_FAILED) throw std::bad_alloc();
  const auto address = (reinterpret_cast<uintptr_t>(mapped_) + kHugePage - 1) / kHugePage * kHugePage;
  data_ = reinterpret_cast<uint8_t*>(address);
#ifdef MADV_HUGEPAGE
  madvise(data_, rounded, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);  // advice: a system without them goes on without
#else
  (void)huge;
#endif
}

Pages::~Pages() { munmap(mapped_, mapped_bytes_); }

}  // namespace outpace
