// The target's choice: argmax of logits / T plus Gumbel noise that is a pure function of (seed, position, token).
// Its numpy twin is src/outpace/core/sampling.py.
#pragma once
#include "kernels.hpp"
#include "math.hpp"

namespace outpace::OUTPACE_ISA {
namespace {

inline I mix(I x) {
  x = (x ^ shr<16>(x)) * iset1(0x7FEB352Du);
  x = (x ^ shr<15>(x)) * iset1(0x846CA68Bu);
  return x ^ shr<16>(x);
}

// -log(-log1p(-v)) with v uniform in (0, 1); log1p by the correction of the rounding of 1 - v.
inline F gumbel(I token, I k0, I k1) {
  const I h = mix(mix(token ^ k0) + k1);
  const F u = fma(to_float(shr<16>(h)), set1(65536.0f), to_float(h & iset1(0xffff)));
  const F v = min((u + set1(0.5f)) * set1(0x1p-32f), set1(1.0f - 0x1p-24f));
  const F y = set1(1.0f) - v;
  const F rounding = (y - set1(1.0f)) + v;
  const F exponential = rounding / y - log(y);
  return zero() - log(exponential);
}

// A running maximum per lane; the first of equal values wins.
struct Leader {
  F value = set1(-__builtin_inff());
  I token = iset1(0x7fffffff);
  void see(F x, I id) {
    const B better = gt(x, value);
    value = select(better, x, value);
    token = select(better, id, token);
  }
  Best best() const {
    alignas(64) float v[16];
    alignas(64) int32_t t[16];
    store(v, value);
    store(t, token);
    Best b{v[0], t[0]};
    for (int i = 1; i < 16; i++)
      if (v[i] > b.value || (v[i] == b.value && t[i] < b.token)) b = {v[i], t[i]};
    return b;
  }
};

inline F perturbed(F logits, I token, const Noise& n) {
  return fma(logits, set1(n.inverse_temperature), gumbel(token, iset1(n.k0), iset1(n.k1)));
}

inline F tail(F x, int count) { return select(gt(iset1((uint32_t)count), iota()), x, set1(-__builtin_inff())); }

// Updates best with logits[0 ... count), which belong to the tokens begin ... begin + count - 1. Where one of them is
// no number or infinitely large, best is kNoToken and stays so.
void best_of(float* logits, int begin, int count, const Noise& noise, Best& best) {
  const F infinite = set1(__builtin_inff());
  F top = zero() - infinite;
  B sound = eq(top, top);
  for (int i = 0; i < count; i += 16) {
    F x = load(logits + i);
    if (i + 16 > count) x = tail(x, count - i);
    sound = sound & gt(infinite, x);
    if (noise.on) x = perturbed(x, iota() + iset1((uint32_t)(begin + i)), noise);
    if (noise.on || i + 16 > count) store(logits + i, x);
    top = max(top, x);
  }
  if (outpace::OUTPACE_ISA::count(sound) < 16) {
    best = {__builtin_inff(), kNoToken};
    return;
  }
  const float highest = hmax(top);
  if (!(highest > best.value) && !(highest == best.value && begin < best.token)) return;
  Leader leader;
  for (int i = 0; i < count; i += 16) leader.see(load(logits + i), iota() + iset1((uint32_t)(begin + i)));
  const Best b = leader.best();
  if (b.value > best.value || (b.value == best.value && b.token < best.token)) best = b;
}

// The k-th largest of x[0 ... n), k >= 1: bisection on the order of the floats, 32 counting passes at most.
inline float kth_largest(const float* x, int n, int k) {
  const auto key = [](float f) {
    uint32_t b;
    __builtin_memcpy(&b, &f, 4);
    return (int32_t)(b & 0x80000000u ? ~b : b | 0x80000000u) ^ (int32_t)0x80000000u;
  };
  const auto value = [](int32_t s) {
    const uint32_t b = (uint32_t)(s ^ (int32_t)0x80000000u), raw = b & 0x80000000u ? b & 0x7fffffffu : ~b;
    float f;
    __builtin_memcpy(&f, &raw, 4);
    return f;
  };
  int64_t low = key(-__builtin_inff()), high = key(__builtin_inff());
  while (low < high) {  // invariant: at least k values are >= value(low)
    const int64_t middle = low + (high - low + 1) / 2;
    const F bound = set1(value((int32_t)middle));
    int at_least = 0;
    for (int i = 0; i < n; i += 16) {
      const F v = load(x + i);
      at_least += count(gt(v, bound) | eq(v, bound));
    }
    if (at_least >= k) low = middle;
    else high = middle - 1;
  }
  return value((int32_t)low);
}

// Choice under top-k, then top-p, then min-p (each on what the former left; lower id first among equals). Rather
// than sort, take the tokens in the order of their perturbed logits and ask of each whether it survives: the first
// that does is the argmax over the survivors. Without noise it is the likeliest token, which also stands for a set of
// survivors that rounding has left empty. logits [vocab, padded by 16] are overwritten, scratch is of their size.
int choose_filtered(float* logits, int vocab, const Noise& noise, int top_k, double top_p, double min_p,
                    float* scratch) {
  const int padded = (vocab + 15) / 16 * 16;
  const F lowest = set1(-__builtin_inff()), inverse = set1(noise.inverse_temperature);
  for (int i = vocab; i < padded; i++) logits[i] = -__builtin_inff();
  F top = lowest;
  B sound = eq(top, top);
  for (int i = 0; i < padded; i += 16) {
    const F x = load(logits + i);
    sound = sound & eq(x, x);
    top = max(top, x);
  }
  const float peak = hmax(top);
  if (count(sound) < 16 || !(peak > -__builtin_inff())) return kNoToken;
  const auto likeliest = [&] {
    int token = 0;
    while (logits[token] != peak) token++;
    return token;
  };
  if (!noise.on) return likeliest();

  if (top_k > 0 && top_k < vocab) {
    const float bound = kth_largest(logits, padded, top_k);
    int above = 0;
    for (int i = 0; i < padded; i += 16) above += count(gt(load(logits + i), set1(bound)));
    int equal_left = top_k - above;
    for (int i = 0; i < vocab; i++)
      if (logits[i] < bound || (logits[i] == bound && equal_left-- <= 0)) logits[i] = -__builtin_inff();
  }
  F mass = zero();  // unnormalised probabilities in scratch become perturbed logits below
  const F highest = set1(peak);
  // Below the peak, so that no temperature overflows. Of the peak itself 0: an infinite one minus itself is no number.
  const auto below = [&](F x) { return select(eq(x, highest), zero(), (x - highest) * inverse); };
  const auto weight = [&](F x) {
    const F distance = below(x);
    return select(gt(distance, set1(-87.0f)), exp(distance), zero());
  };
  if (top_p < 1)
    for (int i = 0; i < padded; i += 16) mass = mass + weight(load(logits + i));
  const double allowed = top_p * hsum(mass);
  for (int i = 0; i < padded; i += 16)
    store(scratch + i, below(load(logits + i)) + gumbel(iota() + iset1((uint32_t)i), iset1(noise.k0), iset1(noise.k1)));
  for (;;) {
    Leader leader;
    for (int i = 0; i < padded; i += 16) leader.see(load(scratch + i), iota() + iset1((uint32_t)i));
    const Best b = leader.best();
    if (b.token >= vocab) return likeliest();
    const F mine = set1(logits[b.token]);
    bool survives = true;
    if (top_p < 1) {
      F ahead = zero();
      for (int i = 0; i < padded; i += 16) {
        const F x = load(logits + i);
        const B before = gt(x, mine) | (eq(x, mine) & gt(iset1((uint32_t)b.token), iota() + iset1((uint32_t)i)));
        ahead = ahead + select(before, weight(x), zero());
      }
      survives = hsum(ahead) < allowed;
    }
    // The most likely token always survives both filters, hence min-p compares with the peak itself.
    if (survives && min_p > 0) {
      alignas(64) float w[16];
      store(w, weight(mine));
      survives = w[0] >= min_p;
    }
    if (survives) return b.token;
    // Both filters keep a prefix of the ranking: what is ranked behind a casualty falls with it.
    for (int i = 0; i < padded; i += 16) {
      const F x = load(logits + i);
      const B before = gt(x, mine) | (eq(x, mine) & gt(iset1((uint32_t)b.token), iota() + iset1((uint32_t)i)));
      store(scratch + i, select(before, load(scratch + i), lowest));
    }
  }
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
