// AVX-512 VNNI: 64 weights against four broadcast activations of one token per instruction.
#pragma once

namespace outpace::OUTPACE_ISA {
namespace {

constexpr int kMostTokens = 16;
constexpr int kMostTiles = 2;

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

// A token's sum before the first product, and what it is in the end.
template <Kind K>
inline __m512i begin_sum(const Tokens& t, int g, Number offset, int m) {
  if constexpr (Traits<K>::has_min) return _mm512_setzero_si512();
  else return as_int(set1(t.number(g, m, offset))).v;
}
template <Kind K>
inline F centred(__m512i sum) {
  if constexpr (Traits<K>::has_min) return to_float(I{sum});
  else return as_float(I{sum}) - set1(kMagic);
}

// One group of N tiles for one token, in two sums a tile, which need not wait for one another.
template <Kind K, int N>
inline void add_token(const __m512i (&w)[N][8], const F (&d)[N], const F (&second)[N], const Tokens& tokens, int g,
                      int m, F (&acc)[N]) {
  using T = Traits<K>;
  const int8_t* a = tokens.quants(g, m);
  __m512i x[N], y[N];
  for (int n = 0; n < N; n++) {
    x[n] = begin_sum<K>(tokens, g, T::halves ? kLow32 : T::offset_sum, m);
    y[n] = T::halves ? begin_sum<K>(tokens, g, kHigh32, m) : _mm512_setzero_si512();
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
      acc[n] = scaled<K>(acc[n], centred<K>(x[n]), d[n], d[n], tokens, g, m);
      acc[n] = scaled<K>(acc[n], centred<K>(y[n]), second[n], d[n], tokens, g, m);
    } else {
      x[n] = _mm512_add_epi32(x[n], y[n]);
      acc[n] = scaled<K>(acc[n], centred<K>(x[n]), d[n], second[n], tokens, g, m);
    }
  }
}

// acc[m] += all groups of N neighbouring tiles for the tokens 0 ... M - 1. With two tiles a broadcast serves twice; few
// tokens keep their sums in registers, many in the first-level cache.
template <Kind K, int N, int M, int Level>
inline void tile_groups_at(const uint8_t* tile, size_t tile_bytes, size_t scale_offset, int groups,
                           const Tokens& tokens, const Fetch& fetch, F (&acc)[M][N]) {
  using T = Traits<K>;
  Ahead<T, N, Level> ahead(tile, tile_bytes, groups, fetch);
  for (int g = 0; g < groups; g++, ahead.step()) {
    __m512i w[N][8];
    F d[N], second[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      const uint8_t* quants = tile + n * tile_bytes + (size_t)g * T::quant_bytes;
      const uint8_t* scales = tile + n * tile_bytes + scale_offset + (size_t)g * T::scale_bytes;
      ahead.fetch(n, scale_offset);
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

// With one token there is so little to do that even the question of the level would show.
template <Kind K, int N, int M>
inline void tile_groups(const uint8_t* tile, size_t tile_bytes, size_t scale_offset, int groups, const Tokens& tokens,
                        const Fetch& fetch, F (&acc)[M][N]) {
  const auto at = [&]<int Level>() {
    tile_groups_at<K, N, M, Level>(tile, tile_bytes, scale_offset, groups, tokens, fetch, acc);
  };
  if constexpr (M > 1) at.template operator()<kAnyLevel>();
  else if (fetch.level == 0) at.template operator()<0>();
  else if (fetch.level == 1) at.template operator()<1>();
  else at.template operator()<2>();
}

int64_t saturate_dots(int rounds) {
  __m512i sums[kSums], x = _mm512_set1_epi8(1);
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (int r = 0; r < rounds; r++) {
#pragma GCC unroll 16
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, x, x);
    asm volatile("" : "+v"(x));
  }
  for (const __m512i& sum : sums) x = _mm512_add_epi32(x, sum);
  asm volatile("" : "+v"(x));
  return (int64_t)rounds * kSums * 64;
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
