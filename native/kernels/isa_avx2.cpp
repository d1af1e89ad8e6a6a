#define OUTPACE_ISA avx2
#define OUTPACE_TILE_GROUPS "tile_avx2.hpp"
#include "simd_avx2.hpp"
#include "table.hpp"

namespace outpace {

constinit const Kernels kernels_avx2 = avx2::table("avx2");

}  // namespace outpace
