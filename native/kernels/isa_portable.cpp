#define OUTPACE_ISA portable
#define OUTPACE_TILE_GROUPS "tile_portable.hpp"
#include "simd_portable.hpp"
#include "table.hpp"

namespace outpace {

constinit const Kernels kernels_portable = portable::table("portable");

}  // namespace outpace
