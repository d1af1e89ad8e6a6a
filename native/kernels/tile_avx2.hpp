// AVX2, and AVX-VNNI where OUTPACE_VNNI is defined: 32 weights against four broadcast activations of one token.
//
// VNNI multiplies and adds to 32 bits in one instruction. Without it, products of pairs are summed in 16 bits, as many
// as cannot overflow, and widened once; 8-bit weights go as two nibbles.
#pragma once

namespace outpace::OUTPACE_ISA {
namespace {

constexpr int kMostTokens = 16;
constexpr int kMostTiles = 1;
constexpr int kAtOnce = 4;  // tokens whose sums stay in registers

#ifdef OUTPACE_VNNI
constexpr bool kVnni = true;
#else
constexpr bool kVnni = false;
#endif

template <Kind K>
constexpr int kParts = K == Kind::q8s && !kVnni ? 2 : 1;  // of a weight, the low one first

// Pairs of products that fit 16 bits together.
template <Kind K>
constexpr int kSafe = 32767 / (2 * 127 * ((16 << Traits<K>::planes) - 1));

// The compiler would do all products first and all sums then, through memory; this keeps the order as written.
inline void in_order(I& x) { asm volatile("" : "+x"(x.a), "+x"(x.b)); }

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

// Inputs 4i ... 4i+3 of the group for the outputs 8 half ... 8 half + 7, unsigned.
template <Kind K>
inline __m256i weights(const uint8_t* quants, int part, int i, int half) {
  const __m256i low = _mm256_set1_epi8(15);
  if constexpr (K == Kind::q8s) {
    const __m256i w = _mm256_load_si256((const __m256i*)(quants + 64 * i + 32 * half));
    if constexpr (kVnni) return w;
    return _mm256_and_si256(part ? _mm256_srli_epi16(w, 4) : w, low);
  } else {
    const __m256i two = _mm256_load_si256((const __m256i*)(quants + 64 * (i / 2) + 32 * half));
    __m256i w = _mm256_and_si256(i % 2 ? _mm256_srli_epi16(two, 4) : two, low);
#pragma GCC unroll 2
    for (int plane = 0; plane < Traits<K>::planes; plane++) {
      const uint32_t* words = (const uint32_t*)(quants + 256 + 64 * plane);
      w = _mm256_or_si256(w, spread(words[2 * i + half], _mm256_set1_epi8((char)(16 << plane))));
    }
    return w;
  }
}

// The weights of one group, unpacked on the way (few tokens) or beforehand (in the first-level cache).
template <Kind K>
struct Packed {
  const uint8_t* quants;
  I operator()(int part, int i) const { return {weights<K>(quants, part, i, 0), weights<K>(quants, part, i, 1)}; }
};
struct Unpacked {
  const __m256i* w;
  I operator()(int part, int i) const { return {w[16 * part + 2 * i], w[16 * part + 2 * i + 1]}; }
};

template <Kind K>
inline void unpack(const uint8_t* quants, __m256i (&w)[16 * kParts<K>]) {
#pragma GCC unroll 32
  for (int i = 0; i < 16 * kParts<K>; i++) w[i] = weights<K>(quants, i / 16, i / 2 % 8, i % 2);
}

#ifdef OUTPACE_VNNI
// Integer sums start at the bits of 1.5 * 2^23: read as a float, the result is that number plus the sum, exactly.
constexpr float kMagic = 12582912.0f;

inline F number_of(I sum) { return as_float(sum); }

// sums[m] = products of the inputs 4 Begin ... 4 End - 1 for T tokens, the first of them at a.
template <Kind K, int T, int Begin, int End, class W>
__attribute__((always_inline)) inline void dots(const W& w, const int8_t* a, I (&sums)[T]) {
  const I start = as_int(set1(kMagic));
#pragma GCC unroll 8
  for (int i = Begin; i < End; i++) {
    const I four_of = w(0, i);
#pragma GCC unroll 4
    for (int m = 0; m < T; m++) {
      const __m256i x = quad(a + kQuantGroupBytes * m + 4 * i);
      const I sum = i > Begin ? sums[m] : start;
      sums[m] = {_mm256_dpbusd_avx_epi32(sum.a, four_of.a, x), _mm256_dpbusd_avx_epi32(sum.b, four_of.b, x)};
      in_order(sums[m]);
    }
  }
}
#else
constexpr float kMagic = 0.0f;

inline F number_of(I sum) { return to_float(sum); }

template <Kind K, int T, int Begin, int End, class W>
__attribute__((always_inline)) inline void dots(const W& w, const int8_t* a, I (&sums)[T]) {
  constexpr int lot = kSafe<K> < End - Begin ? kSafe<K> : End - Begin;
#pragma GCC unroll 2
  for (int part = 0; part < kParts<K>; part++) {
    const __m256i unit = _mm256_set1_epi16(part ? 16 : 1);
#pragma GCC unroll 4
    for (int from = Begin; from < End; from += lot) {
      I pairs[T];
#pragma GCC unroll 8
      for (int j = 0; j < lot; j++) {
        const I four_of = w(part, from + j);
#pragma GCC unroll 4
        for (int m = 0; m < T; m++) {
          const __m256i x = quad(a + kQuantGroupBytes * m + 4 * (from + j));
          const I two = {_mm256_maddubs_epi16(four_of.a, x), _mm256_maddubs_epi16(four_of.b, x)};
          pairs[m] = j ? I{_mm256_add_epi16(pairs[m].a, two.a), _mm256_add_epi16(pairs[m].b, two.b)} : two;
          in_order(pairs[m]);
        }
      }
#pragma GCC unroll 4
      for (int m = 0; m < T; m++) {
        const I wide = {_mm256_madd_epi16(pairs[m].a, unit), _mm256_madd_epi16(pairs[m].b, unit)};
        sums[m] = part || from > Begin ? sums[m] + wide : wide;
      }
    }
  }
}
#endif

// One group for the tokens first ... first + T - 1; which: what the sum of the activations is multiplied by.
template <Kind K, int T, int Begin, int End, class W>
__attribute__((always_inline)) inline void add_tokens(const W& w, F d, F low, const Tokens& tokens, int g, int first,
                                                      Number which, F (*acc)[1]) {
  I sums[T];
  dots<K, T, Begin, End>(w, tokens.quants(g, first), sums);
#pragma GCC unroll 4
  for (int m = 0; m < T; m++) {
    F x = number_of(sums[m]);
    if constexpr (!Traits<K>::has_min) x = x - (set1(tokens.number(g, first + m, which)) + set1(kMagic));
    else if constexpr (kVnni) x = x - set1(kMagic);
    acc[m][0] = scaled<K>(acc[m][0], x, d, low, tokens, g, first + m);
  }
}

template <Kind K, int T, class W>
__attribute__((always_inline)) inline void add_group(const W& w, F d, F second, const Tokens& tokens, int g, int first,
                                                     F (*acc)[1]) {
  if constexpr (Traits<K>::halves) {
    add_tokens<K, T, 0, 4>(w, d, d, tokens, g, first, kLow32, acc);
    add_tokens<K, T, 4, 8>(w, second, d, tokens, g, first, kHigh32, acc);
  } else {
    add_tokens<K, T, 0, 8>(w, d, second, tokens, g, first, Traits<K>::offset_sum, acc);
  }
}

template <Kind K, int N, int M>
inline void tile_groups(const uint8_t* tile, size_t tile_bytes, size_t scale_offset, int groups, const Tokens& tokens,
                        const Fetch& fetch, F (&acc)[M][N]) {
  static_assert(N == 1);
  using T = Traits<K>;
  Ahead<T, N> ahead(tile, tile_bytes, groups, fetch);
  for (int g = 0; g < groups; g++, ahead.step()) {
    ahead.fetch(0, scale_offset);
    const uint8_t* quants = tile + (size_t)g * T::quant_bytes;
    const uint8_t* scales = tile + scale_offset + (size_t)g * T::scale_bytes;
    const F d = load_f16((const uint16_t*)scales);
    const F second = T::scale_bytes == 64 ? load_f16((const uint16_t*)scales + 16) : d;
    if constexpr (M <= kAtOnce) {
      add_group<K, M>(Packed<K>{quants}, d, second, tokens, g, 0, acc);
    } else {
      alignas(64) __m256i unpacked[16 * kParts<K>];
      unpack<K>(quants, unpacked);
      constexpr int rest = M % kAtOnce, whole = M - rest;
#pragma GCC unroll 1
      for (int m = 0; m < whole; m += kAtOnce) {
        Unpacked w{unpacked};
        asm volatile("" : "+r"(w.w));  // else the compiler would take as many of them as it can out of the loop
        add_group<K, kAtOnce>(w, d, second, tokens, g, m, acc + m);
      }
      if constexpr (rest > 0) add_group<K, rest>(Unpacked{unpacked}, d, second, tokens, g, whole, acc + whole);
    }
  }
}

int64_t saturate_dots(int rounds) {
  I sums[kSums / 2], x{_mm256_set1_epi8(1), _mm256_set1_epi8(1)};
  for (I& sum : sums) sum = iset1(0);
  for (int r = 0; r < rounds; r++) {
#pragma GCC unroll 16
    for (I& sum : sums) {
#ifdef OUTPACE_VNNI
      sum = {_mm256_dpbusd_avx_epi32(sum.a, x.a, x.a), _mm256_dpbusd_avx_epi32(sum.b, x.b, x.b)};
#else
      const I two = {_mm256_maddubs_epi16(x.a, x.a), _mm256_maddubs_epi16(x.b, x.b)};
      sum = {_mm256_add_epi16(sum.a, two.a), _mm256_add_epi16(sum.b, two.b)};
#endif
      in_order(sum);
    }
    in_order(x);
  }
  for (const I& sum : sums) x = x + sum;
  in_order(x);
  return (int64_t)rounds * (kSums / 2) * 64;
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
