#define OUTPACE_ISA avx512
#define OUTPACE_TILE_GROUPS "tile_avx512.hpp"
#include "simd_avx512.hpp"
#include "table.hpp"

namespace outpace {

const Kernels* kernels_avx512() {
  static constexpr Kernels kernels = avx512::table("avx512");
  return &kernels;
}

}  // namespace outpace
