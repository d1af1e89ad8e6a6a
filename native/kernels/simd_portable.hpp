// Sixteen lanes as plain arrays (see simd_avx512.hpp for the contract). Fused multiply-add is asked for by
// name: hardware that has it uses it, other hardware pays for the same bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.hpp"

namespace outpace::OUTPACE_ISA {
namespace {

struct F {
  float v[16];
};
struct I {
  uint32_t v[16];
};
struct B {
  bool v[16];
};

template <class R, class Fn>
inline R lanes(Fn fn) {
  R r;
  for (int i = 0; i < 16; i++) r.v[i] = fn(i);
  return r;
}
inline F load(const float* p) {
  return lanes<F>([&](int i) { return p[i]; });
}
inline void store(float* p, F x) { std::memcpy(p, x.v, sizeof x.v); }
inline F set1(float x) {
  return lanes<F>([&](int) { return x; });
}
inline F zero() { return set1(0.0f); }
inline F fma(F x, F y, F z) {
  return lanes<F>([&](int i) { return __builtin_fmaf(x.v[i], y.v[i], z.v[i]); });
}
inline F operator+(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] + y.v[i]; });
}
inline F operator-(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] - y.v[i]; });
}
inline F operator*(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] * y.v[i]; });
}
inline F operator/(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] / y.v[i]; });
}
inline F max(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] > y.v[i] ? x.v[i] : y.v[i]; });
}
inline F min(F x, F y) {
  return lanes<F>([&](int i) { return x.v[i] < y.v[i] ? x.v[i] : y.v[i]; });
}
inline F abs(F x) {
  return lanes<F>([&](int i) { return __builtin_fabsf(x.v[i]); });
}
inline F round(F x) {
  return lanes<F>([&](int i) { return __builtin_nearbyintf(x.v[i]); });
}

// To nearest even, by integer arithmetic.
inline uint16_t float_to_half(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (bits >= 0x47800000) return (uint16_t)(sign | 0x7c00);
  if (bits < 0x38800000) {
    float a;
    std::memcpy(&a, &bits, 4);
    return (uint16_t)(sign | (uint16_t)__builtin_nearbyintf(a * 0x1p24f));
  }
  bits += 0xfff + ((bits >> 13) & 1);
  return (uint16_t)(sign | ((bits - 0x38000000) >> 13));
}
inline F load_f16(const uint16_t* p) {
  return lanes<F>([&](int i) { return half_to_float(p[i]); });
}
inline void store_f16(uint16_t* p, F x) {
  for (int i = 0; i < 16; i++) p[i] = float_to_half(x.v[i]);
}
inline F as_float(I x) {
  F r;
  std::memcpy(r.v, x.v, sizeof r.v);
  return r;
}
inline I as_int(F x) {
  I r;
  std::memcpy(r.v, x.v, sizeof r.v);
  return r;
}
inline F load_bf16(const uint16_t* p) {
  return as_float(lanes<I>([&](int i) { return (uint32_t)p[i] << 16; }));
}
inline void store_i8(int8_t* p, I x) {
  for (int i = 0; i < 16; i++) p[i] = (int8_t)x.v[i];
}

inline I iset1(uint32_t x) {
  return lanes<I>([&](int) { return x; });
}
inline I iota() {
  return lanes<I>([&](int i) { return (uint32_t)i; });
}
inline void store(int32_t* p, I x) { std::memcpy(p, x.v, sizeof x.v); }
inline I operator+(I x, I y) {
  return lanes<I>([&](int i) { return x.v[i] + y.v[i]; });
}
inline I operator-(I x, I y) {
  return lanes<I>([&](int i) { return x.v[i] - y.v[i]; });
}
inline I operator*(I x, I y) {
  return lanes<I>([&](int i) { return x.v[i] * y.v[i]; });
}
inline I operator^(I x, I y) {
  return lanes<I>([&](int i) { return x.v[i] ^ y.v[i]; });
}
inline I operator&(I x, I y) {
  return lanes<I>([&](int i) { return x.v[i] & y.v[i]; });
}
inline I operator|(I x, I y) {
  return lanes<I>([&](int i) { return x.v[i] | y.v[i]; });
}
template <int N>
inline I shr(I x) {
  return lanes<I>([&](int i) { return x.v[i] >> N; });
}
template <int N>
inline I shl(I x) {
  return lanes<I>([&](int i) { return x.v[i] << N; });
}
inline F to_float(I x) {
  return lanes<F>([&](int i) { return (float)(int32_t)x.v[i]; });
}
inline I to_int(F x) {
  return lanes<I>([&](int i) { return (uint32_t)(int32_t)__builtin_nearbyintf(x.v[i]); });
}

inline B gt(F x, F y) {
  return lanes<B>([&](int i) { return x.v[i] > y.v[i]; });
}
inline B eq(F x, F y) {
  return lanes<B>([&](int i) { return x.v[i] == y.v[i]; });
}
inline B gt(I x, I y) {
  return lanes<B>([&](int i) { return (int32_t)x.v[i] > (int32_t)y.v[i]; });
}
inline B operator|(B x, B y) {
  return lanes<B>([&](int i) { return x.v[i] || y.v[i]; });
}
inline B operator&(B x, B y) {
  return lanes<B>([&](int i) { return x.v[i] && y.v[i]; });
}
inline int count(B x) {
  int n = 0;
  for (bool lane : x.v) n += lane;
  return n;
}
inline bool any(B x) { return count(x) != 0; }
inline F select(B m, F x, F y) {
  return lanes<F>([&](int i) { return m.v[i] ? x.v[i] : y.v[i]; });
}
inline I select(B m, I x, I y) {
  return lanes<I>([&](int i) { return m.v[i] ? x.v[i] : y.v[i]; });
}

template <class Fn>
inline float fold(F x, Fn fn) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) x.v[i] = fn(x.v[i], x.v[i + half]);
  return x.v[0];
}
inline float hsum(F x) {
  return fold(x, [](float a, float b) { return a + b; });
}
inline float hmax(F x) {
  return fold(x, [](float a, float b) { return a > b ? a : b; });
}
inline void store_bytes(int8_t* p, F low, F high, float& sum_low, float& sum_high) {
  store_i8(p, to_int(low));
  store_i8(p + 16, to_int(high));
  sum_low = hsum(low);
  sum_high = hsum(high);
}
inline float offset_number(float offset) { return offset; }
// A value that the compiler has to have at hand here, and knows nothing of behind this.
inline void keep(F& x) { asm volatile("" : : "r"(&x) : "memory"); }
inline void prefetch(const void* p) { __builtin_prefetch(p); }
inline void prefetch_second(const void* p) { __builtin_prefetch(p, 0, 2); }

constexpr int kRegisters = 16;

}  // namespace
}  // namespace outpace::OUTPACE_ISA
