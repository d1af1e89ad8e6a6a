// Plain C++: the reference that the other instruction sets must equal to the bit.
#pragma once

namespace outpace::OUTPACE_ISA {
namespace {

constexpr int kMostTokens = 4;

template <Kind K> inline int weight(const uint8_t* quants, int k, int c) {
  const int byte = 4 * c + k % 4, i = k / 4;
  if constexpr (K == Kind::q8s) return quants[64 * i + byte];
  int q = quants[64 * (i / 2) + byte];
  q = i % 2 ? q >> 4 : q & 15;
  for (int plane = 0; plane < Traits<K>::planes; plane++)
    q |= ((quants[256 + 64 * plane + 8 * i + byte / 8] >> (byte % 8)) & 1) << (4 + plane);
  return q;
}

template <Kind K, int M>
inline void tile_groups(const uint8_t* quants, const uint8_t* scales, int groups, const Tokens& tokens, F (&acc)[M]) {
  using T = Traits<K>;
  for (int g = 0; g < groups; g++, quants += T::quant_bytes, scales += T::scale_bytes) {
    const F d = load_f16((const uint16_t*)scales);
    const F second = T::scale_bytes == 64 ? load_f16((const uint16_t*)scales + 16) : d;
    int32_t low[M][16] = {}, high[M][16] = {};
    for (int k = 0; k < kGroup; k++)
      for (int c = 0; c < 16; c++) {
        const int w = weight<K>(quants, k, c);
        for (int m = 0; m < M; m++) (k < 16 ? low : high)[m][c] += w * tokens.quants(g)[kGroup * m + k];
      }
    for (int m = 0; m < M; m++) {
      const F x = lanes<F>([&](int c) { return (float)low[m][c]; });
      const F y = lanes<F>([&](int c) { return (float)high[m][c]; });
      if constexpr (T::halves) acc[m] = scaled_halves(acc[m], x, y, d, second, tokens, g, m);
      else acc[m] = scaled<K>(acc[m], x + y, d, second, tokens, g, m);
    }
  }
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
