// A model that scores trees of tokens for several rows in one call and chooses the next tokens. Each of its parts has
// one role; score(), advance(), keep() and close() are what needs several of them.
//
// Any number of threads may use it: whoever reads or writes what another may write has the lock, and waits for nothing
// else while he has it. Who waits for it must not hold the GIL.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/cache.hpp"
#include "engine/call.hpp"
#include "engine/flight.hpp"
#include "engine/fork.hpp"
#include "engine/progress.hpp"
#include "engine/threads.hpp"
#include "model/layers.hpp"
#include "model/model.hpp"
#include "model/output.hpp"
#include "model/products.hpp"

namespace outpace {

// The threads of one decoder, or of several that work in turns: those of one that is done would go on spinning where
// the next one's run. Who has the lock works with all of these decoders.
struct Crew {
  explicit Crew(int num_threads) : threads(num_threads) {}
  ForkLock lock;
  Threads threads;
};

struct Decoder {
  Decoder(Model read, std::shared_ptr<Crew> with, bool half_cache, int64_t cache_positions);

  // rows, starts, tokens, parents: see Call::plan.
  // taps: layers whose output is kept for Output::hidden; a call of a part keeps none.
  // depth and skip say which part of the model runs, see part_of. Nodes of a part cannot be kept, but the next call of
  // their row goes on with those that it has again, if its own part goes on from theirs; the bits are the same.
  void score(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
             const int32_t* parents, const std::vector<int>& taps, int depth, const std::vector<int>& skip);
  // All of a model with an input_width, for nodes that are no tokens. given [nodes][input_width], residuals
  // [nodes][hidden_size]: see Config. The residual stream behind the layer is kept as tap 0. whole: see Call::see_all.
  void score_given(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* parents,
                   const float* given, const float* residuals, bool whole);
  // One loop of a model that runs its layers in several, for nodes of any age: see Flights::check. Nodes that ran the
  // last loop may be kept, the others stay in flight until their row is used in another way.
  void advance(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
               const int32_t* parents, const int32_t* loops, const int32_t* came);
  void keep(int row, const std::vector<int>& path);
  void close(int row);

  const std::shared_ptr<Crew> crew;
  ForkLock& lock;
  Model model;
  Threads& threads;
  Products products;
  Cache cache;
  Call call;
  Progress progress;
  Flights flights;
  Layers layers;
  Output output;

 private:
  void begin(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
             const int32_t* parents, std::vector<int> taps, Part part);
};

}  // namespace outpace
