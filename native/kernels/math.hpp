// exp and log of sixteen lanes, after the single precision polynomials of the Cephes library; one order of
// operations, so that every instruction set gives the same bits.
#pragma once

namespace outpace::OUTPACE_ISA {
namespace {

inline F exp(F x) {
  x = min(max(x, set1(-87.0f)), set1(88.0f));
  const F n = round(x * set1(1.44269504f));
  F r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p * r, r, r) + set1(1.0f);
  return p * as_float(shl<23>(to_int(n) + iset1(127)));
}

// x > 0 and normal.
inline F log(F x) {
  const I bits = as_int(x);
  I e = shr<23>(bits) - iset1(126);
  F m = as_float((bits & iset1(0x007fffff)) | iset1(0x3f000000));  // [0.5, 1)
  const B small = gt(set1(0.707106781f), m);
  const F exponent = to_float(e) - select(small, set1(1.0f), zero());
  m = select(small, m + m, m) - set1(1.0f);
  F p = set1(7.0376836292e-2f);
  p = fma(p, m, set1(-1.1514610310e-1f));
  p = fma(p, m, set1(1.1676998740e-1f));
  p = fma(p, m, set1(-1.2420140846e-1f));
  p = fma(p, m, set1(1.4249322787e-1f));
  p = fma(p, m, set1(-1.6668057665e-1f));
  p = fma(p, m, set1(2.0000714765e-1f));
  p = fma(p, m, set1(-2.4999993993e-1f));
  p = fma(p, m, set1(3.3333331174e-1f));
  const F square = m * m;
  F y = p * m * square;
  y = fma(exponent, set1(-2.12194440e-4f), y);
  y = fma(set1(-0.5f), square, y);
  return fma(exponent, set1(0.693359375f), m + y);
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
