#include "model/layers.hpp"

#include <algorithm>

namespace outpace {

Layers::Layers(const Model& model, Call& call, Cache& cache, Products& products)
    : model_(model),
      config_(model.config),
      kernels_(products.kernels()),
      call_(call),
      cache_(cache),
      products_(products),
      threads_(products.threads()),
      rope_(config_),
      width_(model.width()),
      q_width_(model.q_width()),
      kv_width_(model.kv_width()),
      ffn_width_(model.ffn_width()),
      scores_(threads_.count()) {}

void Layers::reserve() {
  const size_t n = call_.tokens.size();
  rope_.fill(*std::max_element(call_.positions.begin(), call_.positions.end()) + 1);
  for (Buffer* b : {&x_, &normed_, &call_.hidden, &call_.states}) b->floats(n * width_);
  for (Buffer* b : {&q_, &attended_}) b->floats(n * q_width_);
  for (Buffer* b : {&k_, &v_}) b->floats(n * kv_width_);
  for (Buffer* b : {&gate_, &up_}) b->floats(n * ffn_width_);
  gated_.bytes(Products::room(n, ffn_width_));
  if (!call_.taps.empty()) call_.tapped.floats(call_.taps.size() * n * width_);
  if (config_.input_width) call_.given.floats(n * model_.input_width());
  products_.reserve((int)n, std::max({width_, q_width_, model_.input_width()}));
  int longest = 0;
  for (const CallRow& row : call_.rows) longest = std::max(longest, row.length + row.nodes);
  for (Buffer& b : scores_) b.floats((size_t)(kMaxQueries + 1) * padded(longest + 16));
}

void Layers::run(int begin, int end, bool last) {
  const int n = active();
  call_.work += (int64_t)(end - begin) * n;
  add<&Layers::enter>(begin, n);
  const int loop_sublayers = 2 * model_.loop_layers();
  for (int i = begin; i < end; i++) {
    const int sublayer = call_.part[i];
    const bool next_loop = i > 0 && call_.part[i - 1] / loop_sublayers != sublayer / loop_sublayers;
    if (next_loop && config_.loop_norm) add<&Layers::end_loop>(0, n);
    if (sublayer % 2 == 0) add_attention(sublayer / 2);
    else add_feed_forward(sublayer / 2);
    for (size_t tap = 0; tap < call_.taps.size(); tap++)
      if (sublayer == 2 * call_.taps[tap] + 1) add<&Layers::keep_tap>((int)tap, n);
  }
  const auto is_through = [&](int node) { return call_.is_through(node); };
  if (!last || !std::all_of(call_.active.begin(), call_.active.end(), is_through)) add<&Layers::save>(0, n);
  if (last) add<&Layers::finish>(0, n);
  std::vector<Phase> phases;  // so that none is left behind where no thread can be started
  phases.swap(phases_);
  threads_.run(phases);
  phases.clear();
  phases.swap(phases_);
}

void Layers::add_attention(int layer) {
  const Layer& w = model_.layer(layer);
  const int n = active(), tiles = w.q.tiles + w.k.tiles + w.v.tiles, heads = config_.num_heads;
  add_preparation<&Layers::attention_source>(layer);
  add_product<&Layers::project>(layer, (tiles + 1) / 2, 2 * w.q.tile_bytes);
  add<&Layers::rotate_and_store>(layer, (config_.num_kv_heads + heads) * n);
  // Some at a time, where there are many: kernels like fours.
  const int threads = threads_.count(), some = (n * heads / (4 * threads) + 3) / 4 * 4;
  add<&Layers::attend>(layer, n * heads, std::max(some, std::min(kMaxQueries, n * heads / threads + 1)));
  add_preparation<&Layers::attended_source>(layer);
  add_product<&Layers::project_back>(layer, (w.o.tiles + 1) / 2, 2 * w.o.tile_bytes);
  if (!w.post_attn_norm.empty()) add<&Layers::add_normed>(2 * layer, n);
}

void Layers::add_feed_forward(int layer) {
  const Layer& w = model_.layer(layer);
  const int n = active();
  add_preparation<&Layers::feed_forward_source>(layer);
  add_product<&Layers::expand>(layer, ffn_width_ / kGroup, 2 * (w.gate.tile_bytes + w.up.tile_bytes));
  add_product<&Layers::contract>(layer, (w.down.tiles + 1) / 2, 2 * w.down.tile_bytes);
  if (!w.post_ffn_norm.empty()) add<&Layers::add_normed>(2 * layer + 1, n);
}

// From the token or, where the node has something behind it, from its state.
void Layers::enter(int begin, const Chunk& nodes) {
  for (int i = nodes.begin; i < nodes.end; i++) {
    const int node = call_.active[i];
    float* x = x_.row(i, width_);
    if (begin || call_.loops[node] || config_.input_width) {
      std::copy_n(call_.states.row(node, width_), width_, x);
      if (call_.loops[node] && config_.loop_norm) normalise(x, x);
      continue;
    }
    unpack_row(model_.embed, call_.tokens[node], x);
    if (config_.embedding_scale != 1.0f)
      for (int d = 0; d < width_; d++) x[d] *= config_.embedding_scale;
  }
}

void Layers::end_loop(int, const Chunk& nodes) {
  for (int i = nodes.begin; i < nodes.end; i++) normalise(x_.row(i, width_), x_.row(i, width_));
}

void Layers::save(int, const Chunk& nodes) {
  for (int i = nodes.begin; i < nodes.end; i++)
    std::copy_n(x_.row(i, width_), width_, call_.states.row(call_.active[i], width_));
}

void Layers::finish(int, const Chunk& nodes) {
  for (int i = nodes.begin; i < nodes.end; i++) normalise(x_.row(i, width_), call_.hidden.row(call_.active[i], width_));
}

// By the final norm.
void Layers::normalise(const float* x, float* out) const {
  kernels_.rms_norm(x, model_.final_norm.data(), config_.hidden_size, width_, config_.rms_eps, out);
}

void Layers::keep_tap(int tap, const Chunk& nodes) {
  const size_t first = (size_t)tap * active() + nodes.begin, count = nodes.end - nodes.begin;
  std::copy_n(x_.row(nodes.begin, width_), count * width_, call_.tapped.row(first, width_));
}

Source Layers::attention_source(int layer) {
  const Layer& w = model_.layer(layer);
  const Forms forms = forms_of({&w.q, &w.k, &w.v});
  if (config_.input_width) return {call_.given.floats(0), active(), model_.input_width(), forms, call_.active.data()};
  return normed_source(w.attn_norm, forms);
}

Source Layers::attended_source(int layer) {
  return {attended_.floats(0), active(), q_width_, forms_of({&model_.layer(layer).o})};
}

Source Layers::feed_forward_source(int layer) {
  const Layer& w = model_.layer(layer);
  return normed_source(w.ffn_norm, forms_of({&w.gate, &w.up}));
}

// The residual stream behind a norm.
Source Layers::normed_source(const std::vector<float>& norm, Forms forms) {
  return {x_.floats(0), active(), width_, forms, nullptr, norm.data(), config_.hidden_size, config_.rms_eps};
}

// What the last product of a layer reads, where expand() has written it.
Input Layers::gated_input(int layer) {
  return Products::layout(gated_, active(), ffn_width_, forms_of({&model_.layer(layer).down}));
}

void Layers::project(int layer, const Chunk& pairs) {
  const Layer& w = model_.layer(layer);
  const int n = active();
  const Input in = products_.input(attention_source(layer), pairs);
  if (pairs.first) fetch_pages(pairs.thread, layer);
  const auto bias_of = [](const std::vector<float>& bias) { return bias.empty() ? nullptr : bias.data(); };
  // The tiles of the three matrices, counted through.
  const auto within = [&](const Matrix& m, int before) {
    return Range{std::clamp(2 * pairs.begin - before, 0, m.tiles), std::clamp(2 * pairs.end - before, 0, m.tiles)};
  };
  products_.multiply(w.q, in, n, q_.floats(0), q_width_, bias_of(w.q_bias), false, within(w.q, 0));
  products_.multiply(w.k, in, n, k_.floats(0), kv_width_, bias_of(w.k_bias), false, within(w.k, w.q.tiles));
  products_.multiply(w.v, in, n, v_.floats(0), kv_width_, bias_of(w.v_bias), false, within(w.v, w.q.tiles + w.k.tiles));
}

void Layers::project_back(int layer, const Chunk& pairs) {
  const Layer& w = model_.layer(layer);
  multiply_back(w.o, products_.input(attended_source(layer), pairs), !w.post_attn_norm.empty(), pairs);
}

// A pair of tiles of gate and of up makes one group of what the last product reads.
void Layers::expand(int layer, const Chunk& pairs) {
  const Layer& w = model_.layer(layer);
  const int n = active(), groups = ffn_width_ / kGroup;
  const Input in = products_.input(feed_forward_source(layer), pairs);
  const Input gated = gated_input(layer);
  for (int pair = pairs.begin; pair < pairs.end; pair += Products::kStrip / 2) {
    const int stop = std::min(pair + Products::kStrip / 2, pairs.end);
    const Range strip{2 * pair, std::min(2 * stop, w.gate.tiles)};
    products_.multiply(w.gate, in, n, gate_.floats(0), ffn_width_, nullptr, false, strip);
    products_.multiply(w.up, in, n, up_.floats(0), ffn_width_, nullptr, false, strip);
    for (int i = 0; i < n; i++) {
      float* row = gate_.row(i, ffn_width_);
      const size_t first = (size_t)kTile * strip.begin;
      kernels_.gated(config_.activation, row + first, up_.row(i, ffn_width_) + first,
                     kTile * (strip.end - strip.begin));
      products_.write(gated, groups, n, i, row, {pair, stop});
    }
  }
}

void Layers::contract(int layer, const Chunk& pairs) {
  const Layer& w = model_.layer(layer);
  multiply_back(w.down, gated_input(layer), !w.post_ffn_norm.empty(), pairs);
}

// A product on its way to the residual stream: added at once, or put where a norm will read it.
void Layers::multiply_back(const Matrix& w, const Input& in, bool normed, const Chunk& pairs) {
  products_.multiply(w, in, active(), (normed ? normed_ : x_).floats(0), width_, nullptr, !normed,
                     {2 * pairs.begin, std::min(2 * pairs.end, w.tiles)});
}

// What stands behind a norm of its own goes to the residual stream here.
void Layers::add_normed(int sublayer, const Chunk& nodes) {
  const Layer& w = model_.layer(sublayer / 2);
  const std::vector<float>& norm = sublayer % 2 ? w.post_ffn_norm : w.post_attn_norm;
  for (int i = nodes.begin; i < nodes.end; i++)
    kernels_.add_rms_norm(normed_.row(i, width_), norm.data(), config_.hidden_size, width_, config_.rms_eps,
                          x_.row(i, width_));
}

// Head by head, a key/value head before the query heads that it serves: the lanes of 16 positions share cache lines, so
// two threads should not write to one head.
void Layers::rotate_and_store(int layer, const Chunk& heads) {
  const Layer& w = model_.layer(layer);
  const int dim = config_.head_dim, group = config_.num_heads / config_.num_kv_heads, table = config_.layer_rope[layer];
  const int n = active();
  for (int u = heads.begin; u < heads.end; u++) {
    const int i = u % n, node = call_.active[i], head = u / n / (group + 1), member = u / n % (group + 1) - 1;
    const float* cosines = rope_.at(table, call_.positions[node]);
    const bool is_key = member < 0;
    float* x = is_key ? k_.row(i, kv_width_) + head * dim : q_.row(i, q_width_) + (head * group + member) * dim;
    const std::vector<float>& norm = is_key ? w.k_norm : w.q_norm;
    if (!norm.empty()) kernels_.rms_norm(x, norm.data(), dim, dim, config_.rms_eps, x);
    kernels_.rope(x, cosines, cosines + dim / 2, dim, is_key ? 1.0f : config_.attention_scale);
    if (!is_key) continue;
    const CallRow& row = call_.rows[call_.row_of[node]];
    const int slot = row.length + node - row.start;
    uint8_t* page = cached(layer, call_.loops[node]) + cache_.pages(row.row)[slot / 16] * cache_.page_bytes();
    kernels_.store_key_value(x, v_.row(i, kv_width_) + head * dim, page, head * cache_.head_bytes(), slot % 16, dim,
                             cache_.half());
  }
}

// The queries of all groups, by key/value head; those that share a head are attended to together, some at a time.
void Layers::attend(int layer, const Chunk& queries) {
  const int kv_heads = config_.num_kv_heads, group = config_.num_heads / kv_heads;
  int before = 0;
  for (const Group& some : call_.groups)
    for (int head = 0; head < kv_heads; head++, before += some.num_active * group) {
      int first = std::max(queries.begin - before, 0);
      const int end = std::min(queries.end - before, some.num_active * group);
      for (; first < end; first += kMaxQueries)
        attend_some(queries.thread, layer, some, head, first, std::min(end - first, kMaxQueries));
    }
}

void Layers::attend_some(int thread, int layer, const Group& some, int head, int first, int count) {
  const CallRow& row = call_.rows[some.row];
  const int dim = config_.head_dim, group = config_.num_heads / config_.num_kv_heads;
  const float* query[kMaxQueries];
  float* out[kMaxQueries];
  int32_t node[kMaxQueries];
  for (int i = 0; i < count; i++) {
    const int active = some.first_active + (first + i) / group;
    node[i] = call_.active[active] - row.start;
    const size_t at = (size_t)active * q_width_ + (head * group + (first + i) % group) * dim;
    query[i] = q_.floats(0) + at;
    out[i] = attended_.floats(0) + at;
  }
  kernels_.attention({.pages = cached(layer, some.loop),
                      .page_table = cache_.pages(row.row),
                      .page_bytes = cache_.page_bytes(),
                      .head_offset = (size_t)head * cache_.head_bytes(),
                      .next_head = head + 1 < config_.num_kv_heads ? cache_.head_bytes() : 0,
                      .head_dim = dim,
                      .length = row.length,
                      .window = config_.layer_window[layer],
                      .half = cache_.half(),
                      .parents = call_.parents.data() + row.start,
                      .depths = call_.depths.data() + row.start,
                      .chain = row.chain,
                      .whole = call_.whole ? row.nodes : 0,
                      .num_queries = count,
                      .query = query,
                      .out = out,
                      .node = node,
                      .scores = scores_[thread].floats(0),
                      .score_stride = padded(row.length + row.nodes + 16)});
}

// The pages that the new keys and values go to are fetched while the products still run.
void Layers::fetch_pages(int thread, int layer) const {
  const int heads = config_.num_kv_heads, threads = threads_.count();
  const size_t begin = (size_t)(heads * thread / threads), end = (size_t)(heads * (thread + 1) / threads);
  for (const Group& some : call_.groups) {
    const CallRow& row = call_.rows[some.row];
    const auto slot_of = [&](int active) { return row.length + call_.active[active] - row.start; };
    const int last = slot_of(some.first_active + some.num_active - 1) / 16;
    for (int page = slot_of(some.first_active) / 16; page <= last; page++) {
      const uint8_t* start = cached(layer, some.loop) + cache_.pages(row.row)[page] * cache_.page_bytes();
      for (size_t b = begin * cache_.head_bytes(); b < end * cache_.head_bytes(); b += 64)
        __builtin_prefetch(start + b, 1);
    }
  }
}

}  // namespace outpace
