// Included before all C++ of llama.cpp. GCC 12's own intrinsic says that it reads 8 of the 64 bytes of a tile
// configuration; the compiler then leaves out the stores of the others, and the first AMX instruction is illegal.
#pragma once
#if defined(__AMX_TILE__) && !defined(__clang__)
#include <immintrin.h>
inline void load_whole_tile_config(const void *config) {
    __asm__ volatile("ldtilecfg\t%X0" ::"m"(*static_cast<const char(*)[64]>(config)));
}
#define _tile_loadconfig load_whole_tile_config
#endif
