// AVX2: 32 weights against four broadcast activations in two steps (8 to 16 to 32 bit). Up to 6 bits the 16-bit
// sums cannot overflow (2 * 63 * 127); 8-bit weights go as |w| times sign(w) * a, at most 2 * 128 * 127.
#pragma once

namespace outpace::OUTPACE_ISA {
namespace {

constexpr int kMostTokens = 4;
constexpr int kMostTiles = 1;

inline __m256i quad(const int8_t* a) {
  int32_t x;
  __builtin_memcpy(&x, a, 4);
  return _mm256_set1_epi32(x);
}

// 32 bits of a plane word to 32 bytes, `bit` where set.
inline __m256i spread(uint32_t word, __m256i bit) {
  const __m256i bytes = _mm256_shuffle_epi8(
      _mm256_set1_epi32((int)word), _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
  const __m256i one = _mm256_set1_epi64x((long long)0x8040201008040201ull);
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, one), one), bit);
}

// Inputs 4i ... 4i+3 of the group for the outputs 8 half ... 8 half + 7, unsigned (q8s: signed).
template <Kind K>
inline __m256i weights(const uint8_t* quants, int i, int half) {
  if constexpr (K == Kind::q8s) {
    const __m256i w = _mm256_load_si256((const __m256i*)(quants + 64 * i + 32 * half));
    return _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
  } else {
    __m256i w = _mm256_load_si256((const __m256i*)(quants + 64 * (i / 2) + 32 * half));
    if (i % 2) w = _mm256_srli_epi16(w, 4);
    w = _mm256_and_si256(w, _mm256_set1_epi8(15));
    for (int plane = 0; plane < Traits<K>::planes; plane++) {
      const uint32_t* words = (const uint32_t*)(quants + 256 + 64 * plane);
      w = _mm256_or_si256(w, spread(words[2 * i + half], _mm256_set1_epi8((char)(16 << plane))));
    }
    return w;
  }
}

template <Kind K>
inline __m256i dot(__m256i sum, __m256i w, __m256i a) {
  __m256i pairs;
  if constexpr (K == Kind::q8s) pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
  else pairs = _mm256_maddubs_epi16(w, a);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <Kind K>
inline F centred(I dot, const Tokens& t, int g, Number sum, int m) {
  if constexpr (Traits<K>::has_min || K == Kind::q8s) return to_float(dot);
  else return to_float(dot) - set1(t.number(g, m, sum));
}

template <Kind K, int N, int M>
inline void tile_groups(const uint8_t* quants, size_t, size_t scale_offset, int groups, const Tokens& tokens,
                        F (&acc)[M][N]) {
  static_assert(N == 1);
  using T = Traits<K>;
  const uint8_t* scales = quants + scale_offset;
  for (int g = 0; g < groups; g++, quants += T::quant_bytes, scales += T::scale_bytes) {
    prefetch(quants + 2048);
    I sums[M], high[M];
    for (int half = 0; half < 2; half++) {
      __m256i x[M], y[M];
      for (int m = 0; m < M; m++) x[m] = y[m] = _mm256_setzero_si256();
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) {
        const __m256i w = weights<K>(quants, i, half);
#pragma GCC unroll 4
        for (int m = 0; m < M; m++) {
          __m256i& s = T::halves && i >= 4 ? y[m] : x[m];
          s = dot<K>(s, w, quad(tokens.quants(g, m) + 4 * i));
        }
      }
      for (int m = 0; m < M; m++) {
        (half ? sums[m].b : sums[m].a) = x[m];
        if constexpr (T::halves) (half ? high[m].b : high[m].a) = y[m];
      }
    }
    const F d = load_f16((const uint16_t*)scales);
    const F second = T::scale_bytes == 64 ? load_f16((const uint16_t*)scales + 16) : d;
    for (int m = 0; m < M; m++) {
      if constexpr (T::halves) {
        acc[m][0] = scaled<K>(acc[m][0], centred<K>(sums[m], tokens, g, kLow32, m), d, d, tokens, g, m);
        acc[m][0] = scaled<K>(acc[m][0], centred<K>(high[m], tokens, g, kHigh32, m), second, d, tokens, g, m);
      } else {
        acc[m][0] =
            scaled<K>(acc[m][0], centred<K>(sums[m], tokens, g, Traits<K>::offset_sum, m), d, second, tokens, g, m);
      }
    }
  }
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
