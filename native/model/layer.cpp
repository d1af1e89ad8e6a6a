// The two halves of a layer, phase by phase. They work on the active nodes: number i among these is row i of every
// buffer.
#include <algorithm>
#include <cstring>

#include "decoder.hpp"

namespace outpace {
namespace {

const std::vector<float> kNoBias;

}  // namespace

void Decoder::embed(int, const Chunk& nodes) {
  for (int i = nodes.begin; i < nodes.end; i++) {
    float* x = x_.floats(0) + (size_t)i * width_;
    unpack_row(weights_.embed, tokens_[active_[i]], x);
    if (config_.embedding_scale != 1.0f)
      for (int d = 0; d < width_; d++) x[d] *= config_.embedding_scale;
  }
}

Decoder::Input Decoder::layout(Buffer& buffer, const Source& s) const {
  uint8_t* start = buffer.bytes(0);
  const size_t bytes = kernels_.activation_bytes(true, s.stride / kGroup, s.tokens);
  return {s.quantised ? start : nullptr, s.floats ? start + (s.quantised ? (bytes + 63) / 64 * 64 : 0) : nullptr};
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

void Decoder::prepare(const Source& s, const Input& in, Range tokens, int thread) {
  float* row = scratch_[thread]->floats(0);
  for (int i = tokens.begin; i < tokens.end; i++) {
    const float* values = s.x + (size_t)i * s.stride;
    if (s.norm) {
      kernels_.rms_norm(values, s.norm->data(), s.dim, s.stride, config_.rms_eps, row);
      values = row;
    }
    write(in, s.stride / kGroup, s.tokens, i, values, {0, s.stride / kGroup});
  }
}

Decoder::Input Decoder::input(const Source& s, const Chunk& chunk) {
  const bool alone = s.tokens <= kBlock;
  const Input in = layout(*activations_[alone ? chunk.thread : 0], s);
  if (alone && chunk.first) prepare(s, in, {0, s.tokens}, chunk.thread);
  return in;
}

void Decoder::multiply(const Matrix& w, const Input& in, int tokens, float* out, int stride,
                       const std::vector<float>& bias, bool accumulate, Range tiles) const {
  if (tiles.begin >= tiles.end) return;
  const Product product{
      &w,     is_float(w.kind) ? in.floats : in.quantised, tokens,     out,
      stride, bias.empty() ? nullptr : bias.data(),        accumulate, fetch_[std::min(tokens, kBlock)]};
  kernels_.product(product, tiles.begin, tiles.end);
}

// Head by head, a key/value head before the query heads that it serves: the lanes of 16 positions share cache lines, so
// two threads should not write to one head.
void Decoder::rotate_and_store(int layer, const Chunk& heads) {
  const Layer& w = weights_.layers[layer];
  const int dim = config_.head_dim, group = config_.num_heads / config_.num_kv_heads;
  const size_t table = (size_t)config_.layer_rope[layer] * config_.context_length;
  const int n = (int)active_.size();
  for (int u = heads.begin; u < heads.end; u++) {
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

// The queries of all rows, by key/value head; those that share a head are attended to together, some at a time.
void Decoder::attend(int layer, const Chunk& queries) {
  const int kv_heads = config_.num_kv_heads, group = config_.num_heads / kv_heads;
  int before = 0;
  for (const RowPlan& row : rows_)
    for (int head = 0; head < kv_heads; head++, before += row.num_active * group) {
      int first = std::max(queries.begin - before, 0);
      const int end = std::min(queries.end - before, row.num_active * group);
      for (; first < end; first += kMaxQueries)
        attend_some(queries.thread, layer, row, head, first, std::min(end - first, kMaxQueries));
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
  const int heads = config_.num_kv_heads, threads = threads_.count();
  const size_t begin = (size_t)(heads * thread / threads), end = (size_t)(heads * (thread + 1) / threads);
  for (const RowPlan& row : rows_)
    for (int page = row.length / 16; page <= (row.length + row.nodes - 1) / 16; page++) {
      const uint8_t* start = cache_.layer(layer) + cache_.pages(row.row)[page] * cache_.page_bytes();
      for (size_t b = begin * cache_.head_bytes(); b < end * cache_.head_bytes(); b += 64)
        __builtin_prefetch(start + b, 1);
    }
}

Decoder::Source Decoder::attention_source(int layer) {
  const Layer& w = weights_.layers[layer];
  const bool q = is_float(w.q.kind), k = is_float(w.k.kind), v = is_float(w.v.kind);
  return {x_.floats(0), (int)active_.size(), width_, config_.hidden_size, &w.attn_norm, !(q && k && v), q || k || v};
}

Decoder::Source Decoder::attended_source(int layer) {
  const bool floats = is_float(weights_.layers[layer].o.kind);
  return {attended_.floats(0), (int)active_.size(), q_width_, 0, nullptr, !floats, floats};
}

Decoder::Source Decoder::feed_forward_source(int layer) {
  const Layer& w = weights_.layers[layer];
  const bool gate = is_float(w.gate.kind), up = is_float(w.up.kind);
  return {x_.floats(0), (int)active_.size(), width_, config_.hidden_size, &w.ffn_norm, !(gate && up), gate || up};
}

void Decoder::project(int layer, const Chunk& pairs) {
  const Layer& w = weights_.layers[layer];
  const int n = (int)active_.size();
  const Input in = input(attention_source(layer), pairs);
  if (pairs.first) fetch_pages(pairs.thread, layer);
  // The tiles of the three matrices, counted through.
  const auto within = [&](const Matrix& m, int before) {
    return Range{std::clamp(2 * pairs.begin - before, 0, m.tiles), std::clamp(2 * pairs.end - before, 0, m.tiles)};
  };
  multiply(w.q, in, n, q_.floats(0), q_width_, w.q_bias, false, within(w.q, 0));
  multiply(w.k, in, n, k_.floats(0), kv_width_, w.k_bias, false, within(w.k, w.q.tiles));
  multiply(w.v, in, n, v_.floats(0), kv_width_, w.v_bias, false, within(w.v, w.q.tiles + w.k.tiles));
}

// A product on its way to the residual stream: added at once, or put where a norm will read it.
void Decoder::multiply_back(const Matrix& w, const Input& in, bool normed, const Chunk& pairs) {
  multiply(w, in, (int)active_.size(), (normed ? normed_ : x_).floats(0), width_, kNoBias, !normed,
           {2 * pairs.begin, std::min(2 * pairs.end, w.tiles)});
}

void Decoder::project_back(int layer, const Chunk& pairs) {
  const Layer& w = weights_.layers[layer];
  multiply_back(w.o, input(attended_source(layer), pairs), !w.post_attn_norm.empty(), pairs);
}

// A pair of tiles of gate and of up makes one group of what the last product reads.
void Decoder::expand(int layer, const Chunk& pairs) {
  const Layer& w = weights_.layers[layer];
  const int n = (int)active_.size(), groups = ffn_width_ / kGroup;
  const Input in = input(feed_forward_source(layer), pairs);
  const bool floats = is_float(w.down.kind);
  const Input gated = layout(gated_, {nullptr, n, ffn_width_, 0, nullptr, !floats, floats});
  for (int pair = pairs.begin; pair < pairs.end; pair += kStrip / 2) {
    const int stop = std::min(pair + kStrip / 2, pairs.end);
    const Range strip{2 * pair, std::min(2 * stop, w.gate.tiles)};
    multiply(w.gate, in, n, gate_.floats(0), ffn_width_, kNoBias, false, strip);
    multiply(w.up, in, n, up_.floats(0), ffn_width_, kNoBias, false, strip);
    for (int i = 0; i < n; i++) {
      float* row = gate_.floats(0) + (size_t)i * ffn_width_;
      const size_t first = (size_t)kTile * strip.begin;
      kernels_.gated(config_.activation, row + first, up_.floats(0) + (size_t)i * ffn_width_ + first,
                     kTile * (strip.end - strip.begin));
      write(gated, groups, n, i, row, {pair, stop});
    }
  }
}

void Decoder::contract(int layer, const Chunk& pairs) {
  const Layer& w = weights_.layers[layer];
  const bool floats = is_float(w.down.kind);
  const Input gated = layout(gated_, {nullptr, (int)active_.size(), ffn_width_, 0, nullptr, !floats, floats});
  multiply_back(w.down, gated, !w.post_ffn_norm.empty(), pairs);
}

// What stands behind a norm of its own goes to the residual stream here.
void Decoder::add_normed(int sublayer, const Chunk& nodes) {
  const Layer& w = weights_.layers[sublayer / 2];
  const std::vector<float>& norm = sublayer % 2 ? w.post_ffn_norm : w.post_attn_norm;
  for (int i = nodes.begin; i < nodes.end; i++)
    kernels_.add_rms_norm(normed_.floats(0) + (size_t)i * width_, norm.data(), config_.hidden_size, width_,
                          config_.rms_eps, x_.floats(0) + (size_t)i * width_);
}

void Decoder::add_attention(int layer) {
  const Layer& w = weights_.layers[layer];
  const int n = (int)active_.size(), tiles = w.q.tiles + w.k.tiles + w.v.tiles, heads = config_.num_heads;
  add_preparation<&Decoder::attention_source>(layer, n);
  add_product<&Decoder::project>(layer, (tiles + 1) / 2, 2 * w.q.tile_bytes, n);
  add_light<&Decoder::rotate_and_store>(layer, (config_.num_kv_heads + heads) * n);
  // Some at a time, where there are many: kernels like fours.
  const int threads = threads_.count(), some = (n * heads / (4 * threads) + 3) / 4 * 4;
  add<&Decoder::attend>(layer, n * heads, std::max(some, std::min(kMaxQueries, n * heads / threads + 1)));
  add_preparation<&Decoder::attended_source>(layer, n);
  add_product<&Decoder::project_back>(layer, (w.o.tiles + 1) / 2, 2 * w.o.tile_bytes, n);
  if (!w.post_attn_norm.empty()) add_light<&Decoder::add_normed>(2 * layer, n);
}

void Decoder::add_feed_forward(int layer) {
  const Layer& w = weights_.layers[layer];
  const int n = (int)active_.size();
  add_preparation<&Decoder::feed_forward_source>(layer, n);
  add_product<&Decoder::expand>(layer, ffn_width_ / kGroup, 2 * (w.gate.tile_bytes + w.up.tile_bytes), n);
  add_product<&Decoder::contract>(layer, (w.down.tiles + 1) / 2, 2 * w.down.tile_bytes, n);
  if (!w.post_ffn_norm.empty()) add_light<&Decoder::add_normed>(2 * layer + 1, n);
}

void Decoder::keep_tap(int tap, const Chunk& nodes) {
  const size_t first = tap * active_.size() + nodes.begin;
  std::memcpy(tapped_.floats(0) + first * width_, x_.floats(0) + (size_t)nodes.begin * width_,
              sizeof(float) * (size_t)(nodes.end - nodes.begin) * width_);
}

}  // namespace outpace
