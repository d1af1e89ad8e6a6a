#define OUTPACE_ISA portable
#define OUTPACE_TILE_GROUPS "tile_portable.hpp"
#include "simd_portable.hpp"
#include "table.hpp"

namespace outpace {

const Kernels* kernels_portable() {
  static constexpr Kernels kernels = portable::table("portable");
  return &kernels;
}

}  // namespace outpace
