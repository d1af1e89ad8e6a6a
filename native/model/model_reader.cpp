#include "model/model_reader.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace nb = nanobind;

namespace outpace {
namespace {

template <class T>
T field(const nb::dict& config, const char* name) {
  if (!config.contains(name)) refuse(std::string("the model's config lacks ") + name);
  T value;
  if (!nb::try_cast(config[name], value)) refuse(std::string("the model's config has a wrong ") + name);
  return value;
}

// Reads tensors (name -> kind, rows, cols, offset, num_bytes) from the packed file; nothing outside it is ever touched.
class Reader {
 public:
  Reader(const nb::dict& tensors, const Bytes& buffer)
      : tensors_(tensors), data_(buffer.data()), size_(buffer.size()) {}

  Matrix matrix(const std::string& name, int rows, int cols, bool required = true) const {
    if (!has(name, required)) return {};
    const auto [kind, r, c, offset, bytes] = entry(name);
    const Matrix m = packed_matrix(kind, rows, cols, data_ + offset);
    if (r != rows || c != cols) refuse(name + " is " + shape(r, c) + " and should be " + shape(rows, cols));
    if (bytes != m.tile_bytes * m.tiles || offset % 64) refuse(name + " has a wrong size or place in the packed file");
    return m;
  }

  std::vector<float> vector(const std::string& name, int count, bool required) const {
    if (!has(name, required)) return {};
    const auto [kind, r, c, offset, bytes] = entry(name);
    if (kind != "f32" || (int64_t)r * c != count || bytes != (size_t)count * 4)
      refuse(name + " should be " + std::to_string(count) + " floats");
    std::vector<float> v(padded(count), 0.0f);
    std::memcpy(v.data(), data_ + offset, bytes);
    return v;
  }

 private:
  using Entry = std::tuple<std::string, int, int, size_t, size_t>;
  static std::string shape(int r, int c) { return std::to_string(r) + " x " + std::to_string(c); }
  bool has(const std::string& name, bool required) const {
    const bool there = tensors_.contains(name.c_str());
    if (required && !there) refuse("the model lacks the tensor " + name);
    return there;
  }
  Entry entry(const std::string& name) const {
    Entry e = nb::cast<Entry>(tensors_[name.c_str()]);
    const auto [kind, r, c, offset, bytes] = e;
    if (offset > size_ || bytes > size_ - offset) refuse(name + " lies outside the packed file");
    return e;
  }

  const nb::dict& tensors_;
  const uint8_t* data_;
  size_t size_;
};

// As ModelConfig.num_loops has it.
int count_loops(const Config& c) {
  const int total = (int)c.layer_order.size();
  const int distinct = 1 + *std::max_element(c.layer_order.begin(), c.layer_order.end());
  if (total % distinct) return 1;
  for (int l = 0; l < total; l++) {
    const int first = l % distinct;
    if (c.layer_order[l] != first || c.layer_rope[l] != c.layer_rope[first] ||
        c.layer_window[l] != c.layer_window[first])
      return 1;
  }
  return total / distinct;
}

Config read_config(const nb::dict& d) {
  const auto activation = field<std::string>(d, "activation");
  if (activation != "silu" && activation != "gelu_tanh")
    refuse("unknown activation " + activation + "; accepted: silu, gelu_tanh");
  Config c{.vocab_size = field<int>(d, "vocab_size"),
           .hidden_size = field<int>(d, "hidden_size"),
           .num_heads = field<int>(d, "num_heads"),
           .num_kv_heads = field<int>(d, "num_kv_heads"),
           .head_dim = field<int>(d, "head_dim"),
           .intermediate_size = field<int>(d, "intermediate_size"),
           .context_length = field<int>(d, "context_length"),
           .rms_eps = field<float>(d, "rms_eps"),
           .attention_scale = field<float>(d, "attention_scale"),
           .embedding_scale = field<float>(d, "embedding_scale"),
           .activation = activation == "silu" ? Activation::silu : Activation::gelu_tanh,
           .rope_inv_freq = field<std::vector<std::vector<float>>>(d, "rope_inv_freq"),
           .rope_scale = field<std::vector<float>>(d, "rope_scale"),
           .layer_rope = field<std::vector<int>>(d, "layer_rope"),
           .layer_window = field<std::vector<int>>(d, "layer_window"),
           .layer_order = field<std::vector<int>>(d, "layer_order"),
           .num_loops = 1,
           .loop_norm = field<bool>(d, "loop_norm"),
           .input_width = d.contains("input_width") ? field<int>(d, "input_width") : 0};
  for (size_t l = c.layer_order.size(); l < c.layer_rope.size(); l++) c.layer_order.push_back((int)l);
  for (int64_t n : {(int64_t)c.vocab_size, (int64_t)c.hidden_size, (int64_t)c.num_kv_heads, (int64_t)c.head_dim,
                    (int64_t)c.intermediate_size, (int64_t)c.context_length, (int64_t)c.num_heads * c.head_dim})
    if (n < 1 || n > kMostSize) refuse("a size of the model's config is outside 1 ... " + std::to_string(kMostSize));
  for (float x : {c.rms_eps, c.attention_scale, c.embedding_scale})
    if (!std::isfinite(x)) refuse("rms_eps, attention_scale and embedding_scale have to be finite");
  if (c.head_dim % 16 || c.head_dim > 512)
    refuse("head_dim has to be a multiple of 16 up to 512, not " + std::to_string(c.head_dim));
  if (c.num_heads % c.num_kv_heads) refuse("num_heads has to be a multiple of num_kv_heads");
  if (c.rope_scale.size() != c.rope_inv_freq.size() || c.layer_rope.empty() ||
      c.layer_rope.size() != c.layer_window.size() || c.layer_rope.size() != c.layer_order.size())
    refuse("the rope tables or the layers of the model's config do not fit together");
  for (const auto& table : c.rope_inv_freq)
    if ((int)table.size() != c.head_dim / 2) refuse("a rope table has to have head_dim / 2 entries");
  for (int t : c.layer_rope)
    if (t < 0 || t >= (int)c.rope_inv_freq.size()) refuse("a layer names a rope table that does not exist");
  for (int w : c.layer_window)
    if (w < 0) refuse("a window is negative");
  for (int l : c.layer_order)
    if (l < 0 || l >= (int)c.layer_order.size()) refuse("a layer has the weights of one that does not exist");
  c.num_loops = count_loops(c);
  if (c.loop_norm && c.num_loops == 1) refuse("loop_norm needs layers that all run several times");
  if (c.input_width < 0 || c.input_width > kMostSize)
    refuse("input_width is outside 0 ... " + std::to_string(kMostSize));
  if (c.input_width && c.layer_order.size() != 1) refuse("input_width needs a model of one layer");
  return c;
}

}  // namespace

Matrix packed_matrix(const std::string& kind, int rows, int cols, const uint8_t* data) {
  int k = 0;
  while (k < kKinds && kind != kFormats[k].name) k++;
  if (k == kKinds) refuse("unknown kind of packed matrix: " + kind);
  if (rows < 1 || cols < 1 || rows > kMostSize || cols > kMostSize)
    refuse("a packed matrix has 1 to " + std::to_string(kMostSize) + " rows and columns");
  const int groups = padded(cols) / kGroup;
  return {.kind = (Kind)k,
          .rows = rows,
          .cols = cols,
          .tiles = (rows + kTile - 1) / kTile,
          .groups = groups,
          .tile_bytes = packed_tile_bytes((Kind)k, groups),
          .scale_offset = ((size_t)groups * kFormats[k].quant_bytes + 63) / 64 * 64,
          .data = data};
}

Model read_model(const nb::dict& config, const nb::dict& tensors, const Bytes& file) {
  const Reader r(tensors, file);
  Model model;
  model.config = read_config(config);
  const Config& c = model.config;
  const int q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  const int read = c.input_width ? c.input_width : c.hidden_size;
  model.embed = r.matrix("embed", c.vocab_size, c.hidden_size);
  model.output = r.matrix("output", c.vocab_size, c.hidden_size, false);
  if (!model.output) model.output = model.embed;
  model.final_norm = r.vector("final_norm", c.hidden_size, true);
  for (int i = 0; i <= *std::max_element(c.layer_order.begin(), c.layer_order.end()); i++) {
    const std::string p = "layers." + std::to_string(i) + ".";
    model.layers.push_back({.q = r.matrix(p + "q", q, read),
                            .k = r.matrix(p + "k", kv, read),
                            .v = r.matrix(p + "v", kv, read),
                            .o = r.matrix(p + "o", c.hidden_size, q),
                            .gate = r.matrix(p + "gate", c.intermediate_size, c.hidden_size),
                            .up = r.matrix(p + "up", c.intermediate_size, c.hidden_size),
                            .down = r.matrix(p + "down", c.hidden_size, c.intermediate_size),
                            .attn_norm = r.vector(p + "attn_norm", c.hidden_size, !c.input_width),
                            .q_bias = r.vector(p + "q_bias", q, false),
                            .k_bias = r.vector(p + "k_bias", kv, false),
                            .v_bias = r.vector(p + "v_bias", kv, false),
                            .q_norm = r.vector(p + "q_norm", c.head_dim, false),
                            .k_norm = r.vector(p + "k_norm", c.head_dim, false),
                            .post_attn_norm = r.vector(p + "post_attn_norm", c.hidden_size, false),
                            .ffn_norm = r.vector(p + "ffn_norm", c.hidden_size, true),
                            .post_ffn_norm = r.vector(p + "post_ffn_norm", c.hidden_size, false)});
  }
  return model;
}

}  // namespace outpace
