#define OUTPACE_ISA avxvnni
#define OUTPACE_VNNI
#define OUTPACE_TILE_GROUPS "tile_avx2.hpp"
#include "simd_avx2.hpp"
#include "table.hpp"

namespace outpace {

const Kernels* kernels_avxvnni() {
  static constexpr Kernels kernels = avxvnni::table("avxvnni");
  return &kernels;
}

}  // namespace outpace
