// The k largest of the logits that pass by, strip after strip in any order: best first, of equal ones the lower token.
#pragma once
#include "kernels.hpp"
#include "math.hpp"

namespace outpace::OUTPACE_ISA {
namespace {

inline void enter(Top& top, Best newcomer) {
  int place = top.count;
  if (top.count < top.k) top.count++;
  else if (!is_better(newcomer, top.best[--place])) return;
  for (; place > 0 && is_better(newcomer, top.best[place - 1]); place--) top.best[place] = top.best[place - 1];
  top.best[place] = newcomer;
}

// Shows logits[0 ... count), of the tokens begin ... begin + count - 1, to top. Readable up to a multiple of 16.
void rank(const float* logits, int begin, int count, Top& top) {
  const auto none = [&](F x) {
    const F bound = set1(top.best[top.k - 1].value);
    return !any(gt(x, bound) | eq(x, bound));
  };
  if (top.count == top.k) {
    F most = load(logits);
    for (int i = 16; i < count; i += 16) most = max(most, load(logits + i));
    if (none(most)) return;
  }
  for (int i = 0; i < count; i += 16) {
    if (top.count == top.k && none(load(logits + i))) continue;
    for (int j = i; j < i + 16 && j < count; j++) enter(top, {logits[j], begin + j});
  }
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
