#define OUTPACE_ISA avx512
#define OUTPACE_TILE_GROUPS "tile_avx512.hpp"
#include "simd_avx512.hpp"
#include "table.hpp"

namespace outpace {

constinit const Kernels kernels_avx512 = avx512::table("avx512");

}  // namespace outpace
