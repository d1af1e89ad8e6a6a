// The two halves of a layer, phase by phase, each shared between the threads. They work on the active nodes: number i
// among these is row i of every buffer.
#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "decoder.hpp"

namespace outpace {
namespace {

// Tiles of gate and up whose products are joined while they are in the first-level cache.
constexpr int kStrip = 8;

const std::vector<float> kNoBias;

}  // namespace

void Decoder::embed(int thread) {
  const Range mine = share((int)active_.size(), thread);
  for (int i = mine.begin; i < mine.end; i++) {
    float* x = x_.floats(0) + (size_t)i * width_;
    unpack_row(weights_.embed, tokens_[active_[i]], x);
    if (config_.embedding_scale != 1.0f)
      for (int d = 0; d < width_; d++) x[d] *= config_.embedding_scale;
  }
}

Decoder::Input Decoder::layout(Buffer& buffer, int groups, int tokens,
                               std::initializer_list<const Matrix*> readers) const {
  bool quantised = false, floats = false;
  for (const Matrix* m : readers) (is_float(m->kind) ? floats : quantised) = true;
  uint8_t* start = buffer.bytes(0);
  uint8_t* behind = start + (quantised ? (kernels_.activation_bytes(true, groups, tokens) + 63) / 64 * 64 : 0);
  return {quantised ? start : nullptr, floats ? behind : nullptr};
}

// The groups begin ... end-1 of token i, whose values stand at x, in the forms that `in` has.
void Decoder::write(const Input& in, int groups, int tokens, int i, const float* x, Range part) const {
  const int block = i / kBlock * kBlock, m = std::min(kBlock, tokens - block), count = part.end - part.begin;
  const auto place = [&](uint8_t* start, bool quantised) {
    return start + kernels_.activation_bytes(quantised, groups, block) +
           kernels_.activation_bytes(quantised, part.begin, m);
  };
  if (in.quantised) kernels_.quantise(x + part.begin * kGroup, count, place(in.quantised, true), m, i - block);
  if (in.floats) kernels_.interleave(x + part.begin * kGroup, count, place(in.floats, false), m, i - block);
}

Decoder::Input Decoder::prepare(int thread, const float* x, int stride, int dim, int tokens,
                                const std::vector<float>* norm, std::initializer_list<const Matrix*> readers) {
  const int groups = stride / kGroup;
  // Few tokens: every thread prepares all for itself, cheaper than fetching them from another core's cache. Many:
  // whole blocks each, so that no two threads write to one cache line.
  const bool alone = tokens <= kBlock;
  const Input in = layout(*activations_[alone ? thread : 0], groups, tokens, readers);
  Range mine = share((tokens + kBlock - 1) / kBlock, thread);
  mine = alone ? Range{0, tokens} : Range{mine.begin * kBlock, std::min(mine.end * kBlock, tokens)};
  float* row = scratch_[thread]->floats(0);
  for (int i = mine.begin; i < mine.end; i++) {
    const float* values = x + (size_t)i * stride;
    if (norm) {
      kernels_.rms_norm(values, norm->data(), dim, stride, config_.rms_eps, row);
      values = row;
    }
    write(in, groups, tokens, i, values, {0, groups});
  }
  if (!alone) threads_.barrier();
  return in;
}

void Decoder::multiply(const Matrix& w, const Input& in, int tokens, float* out, int stride,
                       const std::vector<float>& bias, bool accumulate, Range tiles) const {
  if (tiles.begin >= tiles.end) return;
  const Product product{&w,     is_float(w.kind) ? in.floats : in.quantised, tokens,    out,
                        stride, bias.empty() ? nullptr : bias.data(),        accumulate};
  kernels_.product(product, tiles.begin, tiles.end);
}

// Head by head, a key/value head before the query heads that it serves: the lanes of 16 positions share cache lines, so
// two threads should not write to one head.
void Decoder::rotate_and_store(int thread, int layer) {
  const Layer& w = weights_.layers[layer];
  const int dim = config_.head_dim, group = config_.num_heads / config_.num_kv_heads;
  const size_t table = (size_t)config_.layer_rope[layer] * config_.context_length;
  const int n = (int)active_.size();
  const Range mine = share(config_.num_kv_heads * (group + 1) * n, thread);
  for (int u = mine.begin; u < mine.end; u++) {
    const int i = u % n, node = active_[i], head = u / n / (group + 1), member = u / n % (group + 1) - 1;
    const float* cos = rope_cos_.get() + (table + positions_[node]) * (dim / 2);
    const float* sin = rope_sin_.get() + (table + positions_[node]) * (dim / 2);
    const bool is_key = member < 0;
    float* x = is_key ? k_.floats(0) + (size_t)i * kv_width_ + head * dim
                      : q_.floats(0) + (size_t)i * q_width_ + (head * group + member) * dim;
    const std::vector<float>& norm = is_key ? w.k_norm : w.q_norm;
    if (!norm.empty()) kernels_.rms_norm(x, norm.data(), dim, dim, config_.rms_eps, x);
    kernels_.rope(x, cos, sin, dim, is_key ? 1.0f : config_.attention_scale);
    if (!is_key) continue;
    const RowPlan& row = rows_[row_of_[node]];
    const int slot = row.length + node - row.start;
    uint8_t* page = cache_.layer(layer) + cache_.pages(row.row)[slot / 16] * cache_.page_bytes();
    kernels_.store_key_value(x, v_.floats(0) + (size_t)i * kv_width_ + head * dim, page, head * cache_.head_bytes(),
                             slot % 16, dim, cache_.half());
  }
}

// The queries of all rows, by key/value head, in equal shares; those that share a head are attended to together, some
// at a time. A share begins at a multiple of four where there are many: kernels like fours.
void Decoder::attend(int thread, int layer) {
  const int kv_heads = config_.num_kv_heads, group = config_.num_heads / kv_heads;
  const int total = (int)active_.size() * config_.num_heads, grain = total >= 16 * threads_.count() ? 4 : 1;
  const Range mine = share((total + grain - 1) / grain, thread);
  int before = 0;
  for (const RowPlan& row : rows_)
    for (int head = 0; head < kv_heads; head++, before += row.num_active * group) {
      int first = std::max(mine.begin * grain - before, 0);
      const int end = std::min(mine.end * grain - before, row.num_active * group);
      for (; first < end; first += kMaxQueries)
        attend_some(thread, layer, row, head, first, std::min(end - first, kMaxQueries));
    }
}

void Decoder::attend_some(int thread, int layer, const RowPlan& row, int head, int first, int count) {
  const int dim = config_.head_dim, group = config_.num_heads / config_.num_kv_heads;
  const float* query[kMaxQueries];
  float* out[kMaxQueries];
  int32_t node[kMaxQueries];
  for (int i = 0; i < count; i++) {
    const int active = row.first_active + (first + i) / group;
    node[i] = active_[active] - row.start;
    const size_t at = (size_t)active * q_width_ + (head * group + (first + i) % group) * dim;
    query[i] = q_.floats(0) + at;
    out[i] = attended_.floats(0) + at;
  }
  kernels_.attention({.pages = cache_.layer(layer),
                      .page_table = cache_.pages(row.row),
                      .page_bytes = cache_.page_bytes(),
                      .head_offset = (size_t)head * cache_.head_bytes(),
                      .next_head = head + 1 < config_.num_kv_heads ? cache_.head_bytes() : 0,
                      .head_dim = dim,
                      .length = row.length,
                      .window = config_.layer_window[layer],
                      .half = cache_.half(),
                      .parents = parents_.data() + row.start,
                      .depths = depths_.data() + row.start,
                      .chain = row.chain,
                      .num_queries = count,
                      .query = query,
                      .out = out,
                      .node = node,
                      .scores = scores_[thread]->floats(0),
                      .score_stride = padded(row.length + row.nodes + 16)});
}

// The pages that the new keys and values go to are fetched while the products still run.
void Decoder::fetch_pages(int thread, int layer) const {
  const Range heads = share(config_.num_kv_heads, thread);
  for (const RowPlan& row : rows_)
    for (int page = row.length / 16; page <= (row.length + row.nodes - 1) / 16; page++) {
      const uint8_t* start = cache_.layer(layer) + cache_.pages(row.row)[page] * cache_.page_bytes();
      for (size_t b = heads.begin * cache_.head_bytes(); b < heads.end * cache_.head_bytes(); b += 64)
        __builtin_prefetch(start + b, 1);
    }
}

// Adds a product to the residual stream, behind a norm of its own where there is one.
void Decoder::add(int t, const Matrix& m, const Input& in, const std::vector<float>& post_norm) {
  const int n = (int)active_.size();
  float *x = x_.floats(0), *normed = normed_.floats(0);
  if (post_norm.empty()) {
    multiply(m, in, n, x, width_, kNoBias, true, share(m.tiles, t));
    threads_.barrier();
    return;
  }
  multiply(m, in, n, normed, width_, kNoBias, false, share(m.tiles, t));
  threads_.barrier();
  const Range mine = share(n, t);
  for (int i = mine.begin; i < mine.end; i++)
    kernels_.add_rms_norm(normed + (size_t)i * width_, post_norm.data(), config_.hidden_size, width_, config_.rms_eps,
                          x + (size_t)i * width_);
  threads_.barrier();
}

void Decoder::run_attention(int t, int layer) {
  const Layer& w = weights_.layers[layer];
  const int n = (int)active_.size();
  const Input in = prepare(t, x_.floats(0), width_, config_.hidden_size, n, &w.attn_norm, {&w.q, &w.k, &w.v});
  const Range all = share(w.q.tiles + w.k.tiles + w.v.tiles, t);
  const auto within = [&](const Matrix& m, int offset) {
    return Range{std::clamp(all.begin - offset, 0, m.tiles), std::clamp(all.end - offset, 0, m.tiles)};
  };
  fetch_pages(t, layer);
  multiply(w.q, in, n, q_.floats(0), q_width_, w.q_bias, false, within(w.q, 0));
  multiply(w.k, in, n, k_.floats(0), kv_width_, w.k_bias, false, within(w.k, w.q.tiles));
  multiply(w.v, in, n, v_.floats(0), kv_width_, w.v_bias, false, within(w.v, w.q.tiles + w.k.tiles));
  threads_.barrier();
  rotate_and_store(t, layer);
  threads_.barrier();
  attend(t, layer);
  threads_.barrier();
  add(t, w.o, prepare(t, attended_.floats(0), q_width_, 0, n, nullptr, {&w.o}), w.post_attn_norm);
}

void Decoder::run_feed_forward(int t, int layer) {
  const Layer& w = weights_.layers[layer];
  const int n = (int)active_.size();
  const Input ffn = prepare(t, x_.floats(0), width_, config_.hidden_size, n, &w.ffn_norm, {&w.gate, &w.up});
  const int groups = ffn_width_ / kGroup;
  const Input gated = layout(gated_, groups, n, {&w.down});
  const Range part = share(groups, t),
              tiles{2 * part.begin, std::min(2 * part.end, w.gate.tiles)};  // two tiles a group
  for (int tile = tiles.begin; tile < tiles.end; tile += kStrip) {
    const Range strip{tile, std::min(tile + kStrip, tiles.end)};
    multiply(w.gate, ffn, n, gate_.floats(0), ffn_width_, kNoBias, false, strip);
    multiply(w.up, ffn, n, up_.floats(0), ffn_width_, kNoBias, false, strip);
    for (int i = 0; i < n; i++) {
      float* row = gate_.floats(0) + (size_t)i * ffn_width_;
      const size_t first = (size_t)kTile * strip.begin;
      kernels_.gated(config_.activation, row + first, up_.floats(0) + (size_t)i * ffn_width_ + first,
                     kTile * (strip.end - strip.begin));
      write(gated, groups, n, i, row, {strip.begin / 2, (strip.end + 1) / 2});
    }
  }
  threads_.barrier();
  add(t, w.down, gated, w.post_ffn_norm);
}

void Decoder::keep_tap(int t, int layer) {
  const size_t n = active_.size();
  for (size_t i = 0; i < taps_.size(); i++)
    if (taps_[i] == layer) {
      const Range mine = share((int)n, t);
      std::memcpy(tapped_.floats(0) + (i * n + mine.begin) * width_, x_.floats(0) + (size_t)mine.begin * width_,
                  sizeof(float) * (size_t)(mine.end - mine.begin) * width_);
      threads_.barrier();
    }
}

}  // namespace outpace
