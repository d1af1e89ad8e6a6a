// AVX-512 VNNI: 64 weights against four broadcast activations of one token per instruction.
#pragma once

namespace outpace::OUTPACE_ISA {
namespace {

constexpr int kMostTokens = 16;
#ifndef KA
#define KA 8192
#endif
constexpr int kAhead = KA;

inline __m512i quad(const int8_t* a) {
  int32_t x;
  __builtin_memcpy(&x, a, 4);
  return _mm512_set1_epi32(x);
}

// w[i]: inputs 4i ... 4i+3 of the group for 16 outputs, unsigned.
template <Kind K> inline void unpack(const uint8_t* quants, __m512i (&w)[8]) {
  if constexpr (K == Kind::q8s) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) w[i] = _mm512_load_si512(quants + 64 * i);
  } else {
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      const __m512i two = _mm512_load_si512(quants + 64 * j);
      w[2 * j] = _mm512_and_si512(two, low);
      w[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(two, 4), low);
    }
#pragma GCC unroll 2
    for (int plane = 0; plane < Traits<K>::planes; plane++) {
      const __m512i bit = _mm512_set1_epi8((char)(16 << plane));
      const uint64_t* words = (const uint64_t*)(quants + 256 + 64 * plane);
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) w[i] = _mm512_mask_add_epi8(w[i], _cvtu64_mask64(words[i]), w[i], bit);
    }
  }
}

template <Kind K, int M>
inline void tile_groups(const uint8_t* quants, const uint8_t* scales, int groups, const Tokens& tokens, F (&acc)[M]) {
  using T = Traits<K>;
  for (int g = 0; g < groups; g++, quants += T::quant_bytes, scales += T::scale_bytes) {
#pragma GCC unroll 8
    for (int line = 0; line < T::quant_bytes / 64; line++) prefetch(quants + kAhead + 64 * line);
    if (T::scale_bytes == 64 || g % 2 == 0) prefetch(scales + kAhead);
    __m512i w[8];
    unpack<K>(quants, w);
    const F d = load_f16((const uint16_t*)scales);
    const F second = T::scale_bytes == 64 ? load_f16((const uint16_t*)scales + 16) : d;
    const int8_t* a = tokens.quants(g);
#pragma GCC unroll 16
    for (int m = 0; m < M; m++, a += kGroup) {
      __m512i x = _mm512_setzero_si512(), y = x;
      if constexpr (T::halves) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          x = _mm512_dpbusd_epi32(x, w[i], quad(a + 4 * i));
          y = _mm512_dpbusd_epi32(y, w[i + 4], quad(a + 16 + 4 * i));
        }
        acc[m] = scaled_halves(acc[m], to_float({x}), to_float({y}), d, second, tokens, g, m);
      } else {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          x = _mm512_dpbusd_epi32(x, w[2 * i], quad(a + 8 * i));
          if constexpr (M <= 2) y = _mm512_dpbusd_epi32(y, w[2 * i + 1], quad(a + 8 * i + 4));
          else x = _mm512_dpbusd_epi32(x, w[2 * i + 1], quad(a + 8 * i + 4));
        }
        if constexpr (M <= 2) x = _mm512_add_epi32(x, y);
        acc[m] = scaled<K>(acc[m], to_float({x}), d, second, tokens, g, m);
      }
    }
  }
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
