// The output matrix of a model and the choices made from its logits, which exist only where somebody wants them.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/buffer.hpp"
#include "engine/call.hpp"
#include "model/model.hpp"
#include "model/products.hpp"

namespace outpace {

struct Sampling {
  double temperature;  // 0 is greedy
  int top_k;
  double top_p, min_p;
  uint64_t seed;
};

// Changes of the logits after a node, as src/outpace/core/edits.py says; the arrays are the caller's.
struct Edit {
  const int32_t* ids;
  const float* added;
  int num_ids;
  const int32_t* repeated;
  int num_repeated;
  float penalty;
  const uint8_t* allowed;  // [allowed_bytes], or null: everything is allowed
  int allowed_bytes;
};

// One choice: after which node, with which changes of the logits. position: that of the root's choice.
struct Pick {
  int node, root;
  uint64_t position;
  const Sampling* sampling;
  const Edit* edit;  // or null
};

// What may be asked of the last call, whose final hidden states it reads.
class Output {
 public:
  Output(const Model& model, Call& call, Products& products) : model_(model), call_(call), products_(products) {}

  // A new call has so many nodes.
  void forget(size_t nodes);
  // out: tokens, or kNoToken. top > 0: the so many likeliest tokens after these nodes are found on the way, for top().
  void choose(const std::vector<Pick>& picks, int32_t* out, int top);
  // The k <= min(kMaxTop, vocabulary) largest raw logits after nodes, best first, of equal ones the lower token.
  // [nodes][k]
  void top(const std::vector<int>& nodes, int k, int64_t* tokens, float* values);
  void logits(const std::vector<int>& nodes, float* out);
  // The residual stream behind a tapped layer, or behind the final norm (tap = -1). [nodes][hidden]
  std::vector<float> hidden(int tap);
  // Other states behind the final norm, of these nodes: choices and logits are made from them now. [nodes][hidden]
  void set_hidden(const std::vector<int>& nodes, const float* states);

 private:
  void choose_some(const Pick* picks, int count, int32_t* out, int top);
  template <class Visit>
  void visit_logits(const std::vector<int>& nodes, Visit visit, Phase after = {});

  const Model& model_;
  Call& call_;
  Products& products_;
  std::vector<int> chosen_, whole_, place_;
  std::vector<Noise> noises_;
  std::vector<Best> best_,
      top_;                // top_: [nodes][kMaxTop], of which num_top_ are known
  std::vector<Top> tops_;  // per thread and pick
  std::vector<int> num_top_;
  Buffer full_, spare_;
};

}  // namespace outpace
