// Plain C++: the reference that the other instruction sets must equal to the bit.
#pragma once

namespace outpace::OUTPACE_ISA {
namespace {

constexpr int kMostTokens = 4;
constexpr int kMostTiles = 1;

template <Kind K>
inline int weight(const uint8_t* quants, int k, int c) {
  const int byte = 4 * c + k % 4, i = k / 4;
  if constexpr (K == Kind::q8s) return quants[64 * i + byte];
  int q = quants[64 * (i / 2) + byte];
  q = i % 2 ? q >> 4 : q & 15;
  for (int plane = 0; plane < Traits<K>::planes; plane++)
    q |= ((quants[256 + 64 * plane + 8 * i + byte / 8] >> (byte % 8)) & 1) << (4 + plane);
  return q;
}

template <Kind K>
inline F centred(F dot, const Tokens& t, int g, Number sum, int m) {
  if constexpr (Traits<K>::has_min) return dot;
  else return dot - set1(t.number(g, m, sum));
}

template <Kind K, int N, int M>
inline void tile_groups(const uint8_t* quants, size_t, size_t scale_offset, int groups, const Tokens& tokens,
                        const Fetch&, F (&acc)[M][N]) {
  static_assert(N == 1);
  using T = Traits<K>;
  const uint8_t* scales = quants + scale_offset;
  for (int g = 0; g < groups; g++, quants += T::quant_bytes, scales += T::scale_bytes) {
    const F d = load_f16((const uint16_t*)scales);
    const F second = T::scale_bytes == 64 ? load_f16((const uint16_t*)scales + 16) : d;
    int32_t low[M][16] = {}, high[M][16] = {};
    for (int k = 0; k < kGroup; k++)
      for (int c = 0; c < 16; c++) {
        const int w = weight<K>(quants, k, c);
        for (int m = 0; m < M; m++) (k < 16 ? low : high)[m][c] += w * tokens.quants(g, m)[k];
      }
    for (int m = 0; m < M; m++) {
      const F x = lanes<F>([&](int c) { return (float)low[m][c]; });
      const F y = lanes<F>([&](int c) { return (float)high[m][c]; });
      if constexpr (T::halves) {
        acc[m][0] = scaled<K>(acc[m][0], centred<K>(x, tokens, g, kLow32, m), d, d, tokens, g, m);
        acc[m][0] = scaled<K>(acc[m][0], centred<K>(y, tokens, g, kHigh32, m), second, d, tokens, g, m);
      } else {
        acc[m][0] =
            scaled<K>(acc[m][0], centred<K>(x + y, tokens, g, Traits<K>::offset_sum, m), d, second, tokens, g, m);
      }
    }
  }
}

int64_t saturate_dots(int rounds) {
  int32_t sums[16] = {};
  int8_t x[16] = {};
  for (int r = 0; r < rounds; r++) {
    asm volatile("" : : "r"(x), "r"(sums) : "memory");
    for (int i = 0; i < 16; i++) sums[i] += x[i] * x[15 - i];
  }
  asm volatile("" : : "r"(sums) : "memory");
  return (int64_t)rounds * 16;
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
