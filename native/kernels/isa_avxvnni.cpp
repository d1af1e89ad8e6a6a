#define OUTPACE_ISA avxvnni
#define OUTPACE_VNNI
#define OUTPACE_TILE_GROUPS "tile_avx2.hpp"
#include "simd_avx2.hpp"
#include "table.hpp"

namespace outpace {

constinit const Kernels kernels_avxvnni = avxvnni::table("avxvnni");

}  // namespace outpace
