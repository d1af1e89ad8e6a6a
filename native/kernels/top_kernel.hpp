// The k largest of the logits that pass by, strip after strip, in the order of a stable sort: best first, of equal ones
// the lower token. Strips come with ascending tokens, so a newcomer has to be larger than the last of the k.
#pragma once
#include "kernels.hpp"
#include "math.hpp"

namespace outpace::OUTPACE_ISA {
namespace {

inline void enter(Top& top, float value, int32_t token) {
  int place = top.count < top.k ? top.count++ : top.k - 1;
  for (; place > 0 && value > top.best[place - 1].value; place--) top.best[place] = top.best[place - 1];
  top.best[place] = {value, token};
}

// Shows logits[0 ... count), of the tokens begin ... begin + count - 1, to top. Readable up to a multiple of 16.
void rank(const float* logits, int begin, int count, Top& top) {
  const auto bound = [&] { return set1(top.best[top.k - 1].value); };
  if (top.count == top.k) {
    F most = load(logits);
    for (int i = 16; i < count; i += 16) most = max(most, load(logits + i));
    if (!any(gt(most, bound()))) return;
  }
  for (int i = 0; i < count; i += 16) {
    if (top.count == top.k && !any(gt(load(logits + i), bound()))) continue;
    for (int j = i; j < i + 16 && j < count; j++)
      if (top.count < top.k || logits[j] > top.best[top.k - 1].value) enter(top, logits[j], begin + j);
  }
}

}  // namespace
}  // namespace outpace::OUTPACE_ISA
