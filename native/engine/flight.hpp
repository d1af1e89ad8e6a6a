// Passes of a model whose layers run several loops: what nodes that have loops to run leave for the next pass.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/cache.hpp"
#include "engine/call.hpp"

namespace outpace {

class Flights {
 public:
  // loop_layers: how many layers make a loop.
  Flights(int width, int num_loops, int loop_layers)
      : width_(width), num_loops_(num_loops), loop_layers_(loop_layers) {}

  // Throws std::invalid_argument unless the nodes of a pass are new, or go on from the last pass of their row: with the
  // next loop, on the same parents. loops: the loop that each runs; came: its number in that pass, -1 if it is new.
  void check(const Call& call, const int32_t* loops, const int32_t* came) const;
  // Puts states, keys and values of a checked pass into place. Its rows are forgotten: their slots are about to be
  // used.
  void resume(Call& call, Cache& cache, const int32_t* came);
  void remember(Call& call);
  // The path down to a node of the row's last pass is committed.
  void keep(int row, int node);
  void forget(int row);

 private:
  // The nodes of a pass. Their keys and values stand in the slots behind `length` positions, in this order.
  struct Known {
    int length = 0, kept = -1;  // kept: the last node that is committed
    std::vector<int32_t> tokens, parents, loops;
    std::vector<float> states;  // [nodes][width]
  };
  void check_row(const Known& known, const Call& call, const CallRow& row, const int32_t* loops,
                 const int32_t* came) const;

  const int width_, num_loops_, loop_layers_;
  std::vector<Known> rows_;
};

}  // namespace outpace
