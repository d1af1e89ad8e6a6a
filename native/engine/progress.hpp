// Calls that run a part of the model, and calls that go on from them: the same tokens on the same parents are not run
// again through the beginning of their part that they have behind them.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/cache.hpp"
#include "engine/call.hpp"

namespace outpace {

class Progress {
 public:
  explicit Progress(int width) : width_(width) {}

  // Puts what the rows of a call have behind them into place. Returns how many sublayers of the call's part that
  // is; the nodes that still have to go there are active. All rows of the call are forgotten: their slots are about to
  // be used.
  int resume(Call& call, Cache& cache);
  void remember(Call& call);
  void forget(int row);

 private:
  // Nodes that have run through a part. Their keys and values stand in the row's slots, in this order.
  struct Known {
    Part part;
    std::vector<int32_t> tokens, parents;
    std::vector<float> states;  // [nodes][width]
  };
  void take_over(const Known& known, int layers, const CallRow& row, Call& call, Cache& cache,
                 std::vector<int>& pending) const;

  const int width_;
  std::vector<Known> rows_;
};

}  // namespace outpace
