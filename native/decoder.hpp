// The decoder-only transformer: scores trees of tokens for several rows in one call and chooses the next tokens.
//
// Any number of threads may call: every public function that reads or writes what another may write takes lock_, and
// none waits for anything else while it has it. Who waits for it must not hold the GIL.
//
// One call of score() runs all layers, or a part of them, for all nodes; choose() and logits() then apply the output
// matrix to the nodes asked for, so that logits exist only where somebody wants them.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/buffer.hpp"
#include "engine/cache.hpp"
#include "engine/fork.hpp"
#include "engine/threads.hpp"
#include "kernels/kernels.hpp"
#include "model/multiplier.hpp"

namespace outpace {

struct Config {
  int vocab_size, hidden_size, num_heads, num_kv_heads, head_dim, intermediate_size, context_length;
  float rms_eps, attention_scale, embedding_scale;
  Activation activation;
  std::vector<std::vector<float>> rope_inv_freq;  // [tables][head_dim / 2]
  std::vector<float> rope_scale;                  // [tables]
  std::vector<int> layer_rope, layer_window;      // [layers]
};

// Vectors are padded with zeros to a multiple of 32; empty means absent.
struct Layer {
  Matrix q, k, v, o, gate, up, down;
  std::vector<float> attn_norm, q_bias, k_bias, v_bias, q_norm, k_norm, post_attn_norm, ffn_norm, post_ffn_norm;
};

struct Weights {
  Matrix embed, output;
  std::vector<float> final_norm;
  std::vector<Layer> layers;
};

struct Sampling {
  double temperature;  // 0 is greedy
  int top_k;
  double top_p, min_p;
  uint64_t seed;
};

// One choice: after which node, with which changes of the logits. position: that of the root's choice.
struct Pick {
  int node, root;
  uint64_t position;
  const Sampling* sampling;
  const int32_t* edit_tokens;
  const float* edit_values;
  int num_edits;
};

// What part of the model a call runs: the layers 0 ... layers-1 without some sublayers. Sublayer 2l is the attention of
// layer l, 2l + 1 its feed-forward.
struct Part {
  int layers;
  std::vector<uint8_t> skipped;  // [2 * all layers]
  bool operator==(const Part&) const = default;
};

// Nodes of a row that have run through a part of the model, where a later call may go on from. Their keys and values
// stand in the row's slots, in this order.
struct Progress {
  Part part{0, {}};
  std::vector<int32_t> tokens, parents;
  std::vector<float> states;  // the residual stream behind the part: [nodes][width]
};

class Decoder {
 public:
  Decoder(Config config, Weights weights, int num_threads, bool half_cache, int64_t cache_positions);

  // rows[r] takes the nodes starts[r] ... starts[r+1]-1; parents are node numbers within the row, -1 for node 0.
  // taps: layers whose output is kept for hidden(); a call of a part keeps none.
  // layers (-1: all) and skip say which part of the model runs. Nodes of a part cannot be kept, but the next call of
  // their row goes on with those that it has again, if its own part goes on from theirs; the bits are the same.
  void score(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
             const int32_t* parents, const std::vector<int>& taps, int layers = -1, const std::vector<int>& skip = {});
  // out: tokens, or kNoToken. top > 0: the so many likeliest tokens after these nodes are found on the way, for top().
  void choose(const std::vector<Pick>& picks, int32_t* out, int top = 0);
  // The k <= min(kMaxTop, vocabulary) largest raw logits after nodes, best first, of equal ones the lower token.
  // [nodes][k]
  void top(const std::vector<int>& nodes, int k, int64_t* tokens, float* values);
  void logits(const std::vector<int>& nodes, float* out);
  // After score(): the residual stream behind a tapped layer, or behind the final norm (tap = -1). [nodes][hidden]
  std::vector<float> hidden(int tap);
  // Any packed matrix, of the model or not, on the threads of the model (multiplier.hpp). Scores stay as they are.
  void product(const Matrix& w, const float* x, int n, float* out);
  void product_top(const Matrix& w, const float* x, int n, int k, int64_t* rows, float* values);
  void keep(int row, const std::vector<int>& path);

  int open();
  int fork(int row);
  void close(int row);
  int length(int row);
  int64_t cache_bytes();
  // How products of `tokens` and more, up to the next number that was told, ask for their weights. Bits stay.
  void set_fetch(int tokens, const Fetch& fetch);
  // The matrices lie so many bytes further on from now: in a copy of them.
  void move_weights(ptrdiff_t bytes);
  const Config& config() const { return config_; }
  // How many sublayers the last call ran, each node counted.
  int64_t work();
  int threads() const { return threads_.count(); }
  const char* isa() const { return kernels_.name; }

 private:
  struct RowPlan {
    int row, start, nodes, length;
    bool chain;
    int first_active = 0, num_active = 0;
  };
  struct Range {
    int begin, end;
  };
  // Vectors x [tokens][stride] for matrices that read them in these forms, normalised first where norm is given.
  struct Source {
    const float* x;
    int tokens, stride, dim;
    const std::vector<float>* norm;
    bool quantised, floats;
  };
  struct Input {
    uint8_t* quantised;  // null where no matrix reads this form
    uint8_t* floats;
  };
  void plan(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
            const int32_t* parents);
  Part part_of(int layers, const std::vector<int>& skip) const;
  int resume(const Part& part, const std::vector<int>& taps);
  void take_over(const RowPlan& row, const Progress& known, int layers);
  void remember(const Part& part);
  void activate(const std::vector<int>& nodes);
  void fill_rope(int positions);
  void check_node(int node) const;
  void reserve_output(int nodes, int full);

  // A call is a list of phases (see threads.hpp). These put it together, of the functions further down.
  void run_layers(int begin, int end, const Part& part, bool last);
  void add_attention(int layer);
  void add_feed_forward(int layer);
  void add_collection();
  void choose_some(const Pick* picks, int count, int32_t* out, int top);
  void run_phases() {
    std::vector<Phase> phases;  // so that none is left behind where no thread can be started
    phases.swap(phases_);
    threads_.run(phases);
    phases.clear();
    phases.swap(phases_);
  }
  template <void (Decoder::*Work)(int, const Chunk&)>
  void add(int argument, int total, int grain) {
    phases_.push_back(
        {[](void* self, int argument, const Chunk& chunk) { (static_cast<Decoder*>(self)->*Work)(argument, chunk); },
         this, argument, total, grain});
  }
  // Little work: a thread's share in one chunk.
  template <void (Decoder::*Work)(int, const Chunk&)>
  void add_light(int argument, int total) {
    add<Work>(argument, total, total / threads_.count() + 1);
  }
  template <void (Decoder::*Work)(int, const Chunk&)>
  void add_product(int argument, int total, size_t item_bytes, int tokens) {
    add<Work>(argument, total, threads_.product_grain(total, item_bytes, tokens));
  }
  // What the products of a phase read. Up to a block of tokens every thread prepares it for itself, which is cheaper
  // than fetching it from another core's cache; more of them are prepared in a phase before, in whole blocks, so that
  // no two threads write to one cache line.
  template <Source (Decoder::*Of)(int)>
  void add_preparation(int argument, int tokens) {
    if (tokens > kBlock) add<&Decoder::prepare_blocks<Of>>(argument, (tokens + kBlock - 1) / kBlock, 1);
  }
  template <Source (Decoder::*Of)(int)>
  void prepare_blocks(int argument, const Chunk& blocks) {
    const Source s = (this->*Of)(argument);
    prepare(s, layout(*activations_[0], s), {blocks.begin * kBlock, std::min(blocks.end * kBlock, s.tokens)},
            blocks.thread);
  }
  Input input(const Source& s, const Chunk& chunk);
  void prepare(const Source& s, const Input& in, Range tokens, int thread);
  Input layout(Buffer& buffer, const Source& s) const;
  void write(const Input& in, int groups, int tokens, int i, const float* x, Range part) const;
  void multiply(const Matrix& w, const Input& in, int tokens, float* out, int stride, const std::vector<float>& bias,
                bool accumulate, Range tiles) const;

  Source attention_source(int layer);
  Source attended_source(int layer);
  Source feed_forward_source(int layer);
  Source picked_source(int);

  // Items: active nodes.
  void embed(int, const Chunk& nodes);
  void restore(int, const Chunk& nodes);
  void save(int, const Chunk& nodes);
  void finish(int, const Chunk& nodes);
  void keep_tap(int tap, const Chunk& nodes);
  void add_normed(int sublayer, const Chunk& nodes);
  // Items: pairs of tiles.
  void project(int layer, const Chunk& pairs);
  void project_back(int layer, const Chunk& pairs);
  void expand(int layer, const Chunk& pairs);
  void contract(int layer, const Chunk& pairs);
  // Items: heads of nodes.
  void rotate_and_store(int layer, const Chunk& heads);
  void attend(int layer, const Chunk& queries);
  void attend_some(int thread, int layer, const RowPlan& row, int head, int first, int count);
  void fetch_pages(int thread, int layer) const;
  void multiply_back(const Matrix& w, const Input& in, bool normed, const Chunk& pairs);
  // Items: picked nodes.
  void collect(int, const Chunk& nodes);

  static constexpr int kStrip = 8;  // tiles whose outputs are worked on while they are in the first-level cache

  const Config config_;
  Weights weights_;
  const Kernels& kernels_;
  Threads threads_;
  std::vector<Phase> phases_;
  std::array<Fetch, kBlock + 1> fetch_;  // by number of tokens; more than a block: as a block
  Multiplier multiplier_;
  Cache cache_;
  ForkLock lock_;
  int width_, q_width_, kv_width_, ffn_width_;  // padded to multiples of 32

  int nodes_ = 0;
  int64_t work_ = 0;
  bool complete_ = false;  // the last call ran the whole model
  std::vector<RowPlan> rows_;
  std::vector<int32_t> tokens_, parents_, depths_, positions_, row_of_;
  std::vector<int> active_, pending_, every_;  // nodes: those that run now, those not yet begun, all
  std::vector<Progress> progress_;             // by row
  std::vector<int> taps_, chosen_, whole_, place_;
  std::vector<Noise> noises_;
  std::vector<Best> best_, top_;  // top_: [nodes][kMaxTop], of which num_top_ are known
  std::vector<Top> tops_;         // per thread and pick
  std::vector<int> num_top_;
  Buffer x_, normed_, q_, k_, v_, attended_, gate_, up_, gated_, hidden_, tapped_, full_, spare_, picked_, states_;
  std::vector<std::unique_ptr<Buffer>> activations_, scratch_, scores_;  // per thread
  std::unique_ptr<float[]> rope_cos_, rope_sin_;                         // [tables][context][head_dim / 2]
  int rope_filled_ = 0;
};

// One row of a packed matrix as floats. out: [cols padded to 32]
void unpack_row(const Matrix& w, int row, float* out);
size_t packed_tile_bytes(Kind kind, int groups);

}  // namespace outpace
