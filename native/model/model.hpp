// A decoder-only transformer: its shape and where its weights lie.
#pragma once
#include <cstddef>
#include <vector>

#include "kernels/kernels.hpp"

namespace outpace {

struct Config {
  int vocab_size, hidden_size, num_heads, num_kv_heads, head_dim, intermediate_size, context_length;
  float rms_eps, attention_scale, embedding_scale;
  Activation activation;
  std::vector<std::vector<float>> rope_inv_freq;  // [tables][head_dim / 2]
  std::vector<float> rope_scale;                  // [tables]
  std::vector<int> layer_rope, layer_window;      // [layers, as they run]
  std::vector<int> layer_order;                   // [layers, as they run]: whose weights each of them has
  int num_loops;   // how many times all layers run, one after the other and alike each time; 1 for any other order
  bool loop_norm;  // the final norm stands between two loops, too
  // 0: nodes are tokens. Else the attention of the only layer reads so many numbers of each node, which the caller
  // gives behind norms of his own, beside the residual stream that the layer adds to.
  int input_width;
};

// Vectors are padded with zeros to a multiple of 32; empty means absent.
struct Layer {
  Matrix q, k, v, o, gate, up, down;
  std::vector<float> attn_norm, q_bias, k_bias, v_bias, q_norm, k_norm, post_attn_norm, ffn_norm, post_ffn_norm;
};

struct Model {
  Config config;
  Matrix embed, output;
  std::vector<float> final_norm;
  std::vector<Layer> layers;  // with weights of their own; they may run several times

  int num_layers() const { return (int)config.layer_order.size(); }
  int loop_layers() const { return num_layers() / config.num_loops; }
  const Layer& layer(int l) const { return layers[config.layer_order[l]]; }
  // Of vectors, padded to multiples of 32.
  int width() const { return padded(config.hidden_size); }
  int q_width() const { return padded(config.num_heads * config.head_dim); }
  int kv_width() const { return padded(config.num_kv_heads * config.head_dim); }
  int ffn_width() const { return padded(config.intermediate_size); }
  int input_width() const { return config.input_width ? padded(config.input_width) : width(); }

  // The matrices lie so many bytes further on from now: in a copy of them.
  void move(ptrdiff_t bytes);
};

// One row of a packed matrix as floats. out: [cols padded to 32]
void unpack_row(const Matrix& w, int row, float* out);
size_t packed_tile_bytes(Kind kind, int groups);

}  // namespace outpace
