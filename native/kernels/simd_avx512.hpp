// Sixteen float or 32-bit integer lanes on AVX-512. The three simd_*.hpp files define the same
// names with the same arithmetic, so that the generic kernels give the same bits on every path.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace outpace::OUTPACE_ISA {
namespace {

struct F {
  __m512 v;
};
struct I {
  __m512i v;
};
struct B {
  __mmask16 v;
};

inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline F set1(float x) { return {_mm512_set1_ps(x)}; }
inline F zero() { return {_mm512_setzero_ps()}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F abs(F a) { return {_mm512_abs_ps(a.v)}; }
inline F round(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

inline F load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline void store_f16(uint16_t* p, F a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}

inline I iset1(uint32_t x) { return {_mm512_set1_epi32((int)x)}; }
inline I iota() { return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)}; }
inline void store(int32_t* p, I a) { _mm512_storeu_si512(p, a.v); }
inline I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I operator-(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I operator*(I a, I b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline I operator^(I a, I b) { return {_mm512_xor_si512(a.v, b.v)}; }
inline I operator&(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
inline I operator|(I a, I b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int N>
inline I shr(I a) {
  return {_mm512_srli_epi32(a.v, N)};
}
template <int N>
inline I shl(I a) {
  return {_mm512_slli_epi32(a.v, N)};
}
inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I to_int(F a) { return {_mm512_cvtps_epi32(a.v)}; }
inline F as_float(I a) { return {_mm512_castsi512_ps(a.v)}; }
inline I as_int(F a) { return {_mm512_castps_si512(a.v)}; }

inline B gt(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline B eq(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline B gt(I a, I b) { return {_mm512_cmpgt_epi32_mask(a.v, b.v)}; }
inline B operator|(B a, B b) { return {(__mmask16)(a.v | b.v)}; }
inline B operator&(B a, B b) { return {(__mmask16)(a.v & b.v)}; }
inline bool any(B a) { return a.v != 0; }
inline int count(B a) { return __builtin_popcount(a.v); }
inline F select(B m, F a, F b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }
inline I select(B m, I a, I b) { return {_mm512_mask_blend_epi32(m.v, b.v, a.v)}; }

inline float hsum(F a) {
  __m256 x = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}
inline float hmax(F a) {
  __m256 x = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_shuffle_ps(y, y, 1)));
}
// 32 whole numbers of at most 127 as bytes, and the sums of either half.
inline void store_bytes(int8_t* p, F low, F high, float& sum_low, float& sum_high) {
  const __m256i q = _mm256_set_m128i(_mm512_cvtepi32_epi8(to_int(high).v), _mm512_cvtepi32_epi8(to_int(low).v));
  _mm256_storeu_si256((__m256i*)p, q);
  __m256i s = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
  s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
  s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
  sum_low = (float)_mm_cvtsi128_si32(_mm256_castsi256_si128(s));
  sum_high = (float)_mm_cvtsi128_si32(_mm256_extracti128_si256(s, 1));
}
// Integer sums start at the bits of 1.5 * 2^23 less the offset: read as a float, the result is that number plus the
// sum, exactly, and one subtraction does what a conversion and another one would.
constexpr float kMagic = 12582912.0f;
inline float offset_number(float offset) { return kMagic - offset; }
// A value that the compiler has to have at hand here, and knows nothing of behind this.
inline void keep(F& x) { asm volatile("" : "+v"(x.v)); }
// As assembly: GCC takes a function that does nothing but ask for memory for one without effects, and drops its calls.
inline void prefetch(const void* p) { asm volatile("prefetcht0 %0" : : "m"(*(const char*)p)); }
inline void prefetch_second(const void* p) { asm volatile("prefetcht1 %0" : : "m"(*(const char*)p)); }

constexpr int kRegisters = 32;

}  // namespace
}  // namespace outpace::OUTPACE_ISA
