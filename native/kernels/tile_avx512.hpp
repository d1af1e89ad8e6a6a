// AVX-512 VNNI: 64 weights against four broadcast activations of one token per instruction.
#pragma once

namespace outpace::OUTPACE_ISA {
namespace {

constexpr int kMostTokens = 16;
constexpr int kMostTiles = 2;
constexpr int kAheadBytes = 8192;  // of weights on their way from memory; hardware stops at every page, this does not

inline __m512i quad(const int8_t* a) {
  int32_t x;
  __builtin_memcpy(&x, a, 4);
  return _mm512_set1_epi32(x);
}

// w[i]: inputs 4i ... 4i+3 of the group for 16 outputs, unsigned.
template <Kind K>
inline void unpack(const uint8_t* quants, __m512i (&w)[8]) {
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

// Integer sums start at the bits of 1.5 * 2^23: read as a float, the result is that number plus the sum, exactly, and
// an addition (which has units of its own) does what a conversion and a product would.
constexpr float kMagic = 12582912.0f;

template <Kind K>
inline F centred(__m512i dot, const Tokens& t, int g, Number sum, int m) {
  const F x = as_float({dot});
  if constexpr (Traits<K>::has_min) return x - set1(kMagic);
  else return x - (set1(t.number(g, m, sum)) + set1(kMagic));
}

// One group of N tiles for one token.
template <Kind K, int N>
inline void add_token(const __m512i (&w)[N][8], const F (&d)[N], const F (&second)[N], const Tokens& tokens, int g,
                      int m, F (&acc)[N]) {
  using T = Traits<K>;
  const __m512i start = _mm512_castps_si512(_mm512_set1_ps(kMagic));
  const int8_t* a = tokens.quants(g, m);
  __m512i x[N], y[N];
  for (int n = 0; n < N; n++) {
    x[n] = start;
    y[n] = T::halves ? start : _mm512_setzero_si512();
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const __m512i four = quad(a + 4 * i);
    for (int n = 0; n < N; n++) {
      __m512i& sum = i >= 4 ? y[n] : x[n];
      sum = _mm512_dpbusd_epi32(sum, w[n][i], four);
    }
  }
  for (int n = 0; n < N; n++) {
    if constexpr (T::halves) {
      acc[n] = scaled<K>(acc[n], centred<K>(x[n], tokens, g, kLow32, m), d[n], d[n], tokens, g, m);
      acc[n] = scaled<K>(acc[n], centred<K>(y[n], tokens, g, kHigh32, m), second[n], d[n], tokens, g, m);
    } else {
      x[n] = _mm512_add_epi32(x[n], y[n]);
      acc[n] = scaled<K>(acc[n], centred<K>(x[n], tokens, g, Traits<K>::offset_sum, m), d[n], second[n], tokens, g, m);
    }
  }
}

// acc[m] += all groups of N neighbouring tiles for the tokens 0 ... M - 1. With two tiles a broadcast serves twice; few
// tokens keep their sums in registers, many in the first-level cache.
template <Kind K, int N, int M>
inline void tile_groups(const uint8_t* tile, size_t tile_bytes, size_t scale_offset, int groups, const Tokens& tokens,
                        F (&acc)[M][N]) {
  using T = Traits<K>;
  // The group that is fetched now: of this tile or, as tiles are read N by N, of the one N further on.
  int ahead = kAheadBytes / (N * T::quant_bytes);
  const uint8_t* coming = tile + (size_t)(ahead / groups * N) * tile_bytes;
  ahead %= groups;
  for (int g = 0; g < groups; g++, ahead++) {
    if (ahead == groups) {
      ahead = 0;
      coming += N * tile_bytes;
    }
    __m512i w[N][8];
    F d[N], second[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; n++) {
      const uint8_t* quants = tile + n * tile_bytes + (size_t)g * T::quant_bytes;
      const uint8_t* scales = tile + n * tile_bytes + scale_offset + (size_t)g * T::scale_bytes;
#pragma GCC unroll 8
      for (int line = 0; line < T::quant_bytes / 64; line++)
        prefetch(coming + n * tile_bytes + (size_t)ahead * T::quant_bytes + 64 * line);
      prefetch(coming + n * tile_bytes + scale_offset + (size_t)ahead * T::scale_bytes);
      unpack<K>(quants, w[n]);
      d[n] = load_f16((const uint16_t*)scales);
      second[n] = T::scale_bytes == 64 ? load_f16((const uint16_t*)scales + 16) : d[n];
    }
    if constexpr (M <= 4) {
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) add_token<K, N>(w, d, second, tokens, g, m, acc[m]);
    } else {
#pragma GCC unroll 1
      for (int m = 0; m < M; m++) add_token<K, N>(w, d, second, tokens, g, m, acc[m]);
    }
  }
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
