// How the active nodes of a call run through the layers of a model.
//
// They run as a list of phases (see threads.hpp), which run() puts together of the functions further down.
#pragma once
#include <vector>

#include "engine/buffer.hpp"
#include "engine/cache.hpp"
#include "engine/call.hpp"
#include "engine/threads.hpp"
#include "model/model.hpp"
#include "model/products.hpp"
#include "model/rope.hpp"

namespace outpace {

class Layers {
 public:
  Layers(const Model& model, Call& call, Cache& cache, Products& products);

  // Room for all nodes of the call.
  void reserve();
  // The sublayers begin ... end-1 of the call's part, from the tokens or from call.states. Behind the last ones of a
  // call the nodes go through the final norm; what another call or pass may go on from stays in call.states, without
  // the norm between two loops.
  void run(int begin, int end, bool last);

 private:
  using Work = void (Layers::*)(int, const Chunk&);
  // grain: items of a chunk; 0 for little work, of which a thread's share is one chunk.
  template <Work work>
  void add(int argument, int total, int grain = 0) {
    const auto call = [](void* self, int argument, const Chunk& chunk) {
      (static_cast<Layers*>(self)->*work)(argument, chunk);
    };
    phases_.push_back({call, this, argument, total, grain ? grain : total / threads_.count() + 1});
  }
  template <Work work>
  void add_product(int argument, int total, size_t item_bytes) {
    add<work>(argument, total, threads_.product_grain(total, item_bytes, active()));
  }
  template <Source (Layers::*of)(int)>
  void add_preparation(int layer) {
    if (const int blocks = Products::blocks_before(active())) add<&Layers::prepare<of>>(layer, blocks, 1);
  }
  template <Source (Layers::*of)(int)>
  void prepare(int layer, const Chunk& blocks) {
    products_.prepare_blocks((this->*of)(layer), blocks);
  }
  void add_attention(int layer);
  void add_feed_forward(int layer);

  // Whose keys and values a layer has in a loop.
  uint8_t* cached(int layer, int loop) const { return cache_.layer(layer + loop * model_.loop_layers()); }
  int active() const { return (int)call_.active.size(); }
  Source attention_source(int layer);
  Source attended_source(int layer);
  Source feed_forward_source(int layer);
  Source normed_source(const std::vector<float>& norm, Forms forms);
  Input gated_input(int layer);
  void normalise(const float* x, float* out) const;

  // Items: active nodes.
  void enter(int begin, const Chunk& nodes);
  void end_loop(int, const Chunk& nodes);
  void save(int, const Chunk& nodes);
  void finish(int, const Chunk& nodes);
  void keep_tap(int tap, const Chunk& nodes);
  void add_normed(int sublayer, const Chunk& nodes);
  // Items: pairs of tiles.
  void project(int layer, const Chunk& pairs);
  void project_back(int layer, const Chunk& pairs);
  void expand(int layer, const Chunk& pairs);
  void contract(int layer, const Chunk& pairs);
  void multiply_back(const Matrix& w, const Input& in, bool normed, const Chunk& pairs);
  // Items: heads of nodes.
  void rotate_and_store(int layer, const Chunk& heads);
  void attend(int layer, const Chunk& queries);
  void attend_some(int thread, int layer, const Group& group, int head, int first, int count);
  void fetch_pages(int thread, int layer) const;

  const Model& model_;
  const Config& config_;
  const Kernels& kernels_;
  Call& call_;
  Cache& cache_;
  Products& products_;
  Threads& threads_;
  Rope rope_;
  std::vector<Phase> phases_;
  const int width_, q_width_, kv_width_, ffn_width_;
  Buffer x_, normed_, q_, k_, v_, attended_, gate_, up_, gated_;  // by active nodes
  std::vector<Buffer> scores_;                                    // by threads
};

}  // namespace outpace
