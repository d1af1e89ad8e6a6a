// What the instruction-set specific code offers: one table of function pointers per instruction set.
//
// Words: a tile is 16 outputs of a packed matrix; a group is 32 inputs; a block is up to 16 tokens.
// Every output of every function depends on one token only and is accumulated in one order, so that its
// bits depend neither on the number of tokens in the call nor on the instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace outpace {

constexpr int kTile = 16;
constexpr int kGroup = 32;
constexpr int kBlock = 16;
constexpr int kMaxNodes = 1024;  // of one call, all rows together
constexpr int padded(int n) { return (n + kGroup - 1) / kGroup * kGroup; }

enum class Kind : int { q4m, q4s, q5m, q5s, q6s, q8s, f32, bf16, f16 };
constexpr int kKinds = 9;
constexpr bool is_float(Kind k) { return k >= Kind::f32; }

struct Format {
  const char* name;
  int quant_bytes;  // of one group of one tile
  int scale_bytes;
};
constexpr Format kFormats[kKinds] = {{"q4m", 256, 64}, {"q4s", 256, 32},  {"q5m", 320, 64},
                                     {"q5s", 320, 32}, {"q6s", 384, 64},  {"q8s", 512, 32},
                                     {"f32", 2048, 0}, {"bf16", 1024, 0}, {"f16", 1024, 0}};

// A packed matrix: rows outputs, cols inputs. One tile is its quants, then its scales.
struct Matrix {
  Kind kind = Kind::f32;
  int rows = 0, cols = 0, tiles = 0, groups = 0;
  size_t tile_bytes = 0, scale_offset = 0;
  const uint8_t* data = nullptr;
  explicit operator bool() const { return data != nullptr; }
};

// Activations of one block of m tokens as the products read them, group after group.
//   quantised, one cache line a token and group: int8 q[32]; float numbers[8], of which a format reads two or three
//   float: float x[32][m]
// kScaleSum is for formats with a minimum. The others subtract their offset times the sum of the q: of 8, 16 or 128
// times the sum of all 32, or of 32 times the sum of the first and of the last 16. Products that begin with it instead
// keep it as the number to begin with (offset_number of a simd_*.hpp).
enum Number { kScale, kScaleSum, kSum8, kSum16, kSum128, kLow32, kHigh32 };
constexpr size_t kQuantGroupBytes = 64;
constexpr size_t kFloatGroupBytes = 128;
constexpr size_t activation_bytes(bool quantised, size_t groups, size_t tokens) {
  return (quantised ? kQuantGroupBytes : kFloatGroupBytes) * groups * tokens;
}

// How a product asks for weights before it needs them, which is a matter of the processor (see targets/fetching.py).
struct Fetch {
  int level = 1;     // of the cache that they go to; 0: none are asked for
  int bytes = 8192;  // how far ahead, of the weights of one tile
  int tiles = 1;     // read side by side for one token: 1, 2 or 4
};

struct Product {
  const Matrix* matrix;
  const uint8_t* activations;  // whole blocks of 16 tokens, then the rest
  int tokens;
  float* out;  // [tokens][stride], rows padded to a multiple of 16
  int stride;
  const float* bias;  // [padded rows] or null
  bool accumulate;    // add to out instead of overwriting it
  Fetch fetch = {};
};

enum class Activation : int { silu, gelu_tanh };

// One query head's or several heads' share of attention over one row; see attention_kernel.hpp.
struct AttentionJob {
  const uint8_t* pages;       // keys and values of this layer
  const int32_t* page_table;  // page of every 16 positions of the row
  size_t page_bytes, head_offset;
  size_t next_head;        // from this head to the one that this thread reads next
  int head_dim, length;    // length: committed positions; the nodes of this call take the slots behind them
  int window;              // 0: all
  bool half;               // keys and values are f16
  const int32_t* parents;  // [nodes] of this row's tree, -1 for the root
  const int32_t* depths;   // [nodes]
  bool chain;
  int whole;                  // how many nodes of a chain every query sees; 0: its ancestors-or-self
  int num_queries;            // at most kMaxQueries
  const float* const* query;  // [num_queries] pointers to head_dim floats, already scaled
  float* const* out;          // [num_queries]
  const int32_t* node;        // [num_queries] node of each query
  float* scores;              // scratch [num_queries + 1][score_stride]
  int score_stride;
};
constexpr int kMaxQueries = 8;

struct Noise {
  bool on = false;
  float inverse_temperature = 1.0f;
  uint32_t k0 = 0, k1 = 0;
};
struct Best {
  float value;
  int32_t token;
};
constexpr bool is_better(const Best& a, const Best& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}
// In place of a choice: a logit is no number, or none is above minus infinity. Below every token.
constexpr int32_t kNoToken = -0x7fffffff - 1;
// The k likeliest tokens seen so far, best first; on cache lines of its own.
constexpr int kMaxTop = 64;
struct alignas(64) Top {
  int k, count;
  Best best[kMaxTop];
};

struct Kernels {
  const char* name;
  void (*quantise)(const float* x, int groups, uint8_t* block, int block_tokens, int index);
  void (*interleave)(const float* x, int groups, uint8_t* block, int block_tokens, int index);
  void (*product)(const Product&, int tile_begin, int tile_end);
  void (*rms_norm)(const float* x, const float* weight, int dim, int padded, float eps, float* out);
  void (*add_rms_norm)(const float* x, const float* weight, int dim, int padded, float eps, float* residual);
  void (*gated)(Activation, float* gate, const float* up, int n);
  void (*rope)(float* x, const float* cos, const float* sin, int head_dim, float scale);
  void (*store_key_value)(const float* k, const float* v, uint8_t* page, size_t head_offset, int lane, int head_dim,
                          bool half);
  void (*move_key_value)(const uint8_t* from, int from_lane, uint8_t* to, int to_lane, size_t head_offset, int head_dim,
                         bool half);
  void (*attention)(const AttentionJob&);
  void (*best_of)(float* logits,  // overwritten; room up to a multiple of 16
                  int begin, int count, const Noise&, Best&);
  void (*rank)(const float* logits, int begin, int count, Top&);
  // Reads lines of 64 bytes, which are to be asked for as `fetch` says, and gives a number that depends on them all.
  float (*read)(const uint8_t* lines, size_t count, const Fetch& fetch);
  // Multiply-adds of a kind's inner loop on registers alone, as many at once as there are: the most that arithmetic can
  // do. Returns how many were done in so many rounds.
  int64_t (*saturate)(bool quantised, int rounds);
  int (*choose_filtered)(float* logits, int vocab, const Noise&, int top_k, double top_p, double min_p, float* scratch);
};

extern const Kernels kernels_avx512, kernels_avxvnni, kernels_avx2, kernels_portable;

}  // namespace outpace
