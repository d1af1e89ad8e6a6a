// What a call is made of: its plan, its buffers, its layers; and who keeps what afterwards.
// What a call may take over from the one before: progress.cpp.
#include "decoder.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>
#include <stdexcept>

#include "kernels/dispatch.hpp"

namespace outpace {

Decoder::Decoder(Config config, Weights weights, int num_threads, bool half_cache, int64_t cache_positions)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      kernels_(select_kernels()),
      threads_(num_threads),
      multiplier_(kernels_, threads_),
      cache_((int)weights_.layers.size(), config_.num_kv_heads, config_.head_dim, half_cache, cache_positions),
      width_(padded(config_.hidden_size)),
      q_width_(padded(config_.num_heads * config_.head_dim)),
      kv_width_(padded(config_.num_kv_heads * config_.head_dim)),
      ffn_width_(padded(config_.intermediate_size)) {
  for (int t = 0; t < num_threads; t++) {
    activations_.push_back(std::make_unique<Buffer>());
    scratch_.push_back(std::make_unique<Buffer>());
    scores_.push_back(std::make_unique<Buffer>());
  }
  const size_t angles = config_.rope_inv_freq.size() * config_.context_length * (size_t)(config_.head_dim / 2);
  rope_cos_.reset(new float[angles]);
  rope_sin_.reset(new float[angles]);
}

void Decoder::fill_rope(int positions) {
  if (positions <= rope_filled_) return;
  positions = std::min(config_.context_length, (positions + 255) / 256 * 256);
  const int half = config_.head_dim / 2;
  for (size_t table = 0; table < config_.rope_inv_freq.size(); table++)
    for (int p = rope_filled_; p < positions; p++)
      for (int i = 0; i < half; i++) {
        const size_t at = (table * config_.context_length + p) * half + i;
        const float angle = (float)p * config_.rope_inv_freq[table][i];
        rope_cos_[at] = (float)std::cos((double)angle) * config_.rope_scale[table];
        rope_sin_[at] = (float)std::sin((double)angle) * config_.rope_scale[table];
      }
  rope_filled_ = positions;
}

// Checks everything that comes from outside before anything is changed.
void Decoder::plan(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
                   const int32_t* parents) {
  const int total = starts.back();
  nodes_ = 0;  // until the call has run, nothing can be kept or asked of it
  const auto refuse = [](const std::string& what) { throw std::invalid_argument(what); };
  if (total < 1 || total > kMaxNodes)
    refuse("a call scores 1 to " + std::to_string(kMaxNodes) + " nodes, not " + std::to_string(total));
  rows_.clear();
  for (auto* v : {&depths_, &positions_, &row_of_}) v->resize(total);
  for (size_t r = 0; r < rows.size(); r++) {
    const int start = starts[r], n = starts[r + 1] - start, length = cache_.length(rows[r]);
    if (n < 1) refuse("every row needs at least one node");
    for (size_t other = 0; other < r; other++)
      if (rows[other] == rows[r]) refuse("row " + std::to_string(rows[r]) + " stands twice in one call");
    bool chain = true;
    for (int j = 0; j < n; j++) {
      const int i = start + j, parent = parents[i], token = tokens[i];
      if (j == 0 ? parent != -1 : parent < 0 || parent >= j) refuse("a parent has to stand before its child");
      if (token < 0 || token >= config_.vocab_size)
        refuse("token " + std::to_string(token) + " is outside the vocabulary of " +
               std::to_string(config_.vocab_size));
      chain = chain && parent == j - 1;
      row_of_[i] = (int32_t)r;
      depths_[i] = j ? depths_[start + parent] + 1 : 0;
      positions_[i] = length + depths_[i];
      if (positions_[i] >= config_.context_length)
        refuse("position " + std::to_string(positions_[i]) + " is outside the context of " +
               std::to_string(config_.context_length));
    }
    rows_.push_back({rows[r], start, n, length, chain});
  }
  for (const RowPlan& p : rows_) cache_.reserve(p.row, p.nodes);
  tokens_.assign(tokens, tokens + total);
  parents_.assign(parents, parents + total);
}

void Decoder::score(const std::vector<int>& rows, const std::vector<int>& starts, const int32_t* tokens,
                    const int32_t* parents, const std::vector<int>& taps, int layers, const std::vector<int>& skip) {
  std::lock_guard guard(lock_);
  const Part part = part_of(layers, skip);
  for (int tap : taps)
    if (tap < 0 || tap >= (int)weights_.layers.size())
      throw std::invalid_argument("no layer " + std::to_string(tap) + " to tap");
  plan(rows, starts, tokens, parents);
  complete_ = part == part_of(-1, {});
  taps_ = complete_ ? taps : std::vector<int>{};
  const size_t n = tokens_.size();
  top_.resize(std::max(top_.size(), n * kMaxTop));
  num_top_.assign(n, 0);
  fill_rope(*std::max_element(positions_.begin(), positions_.end()) + 1);
  x_.floats(n * width_);
  normed_.floats(n * width_);
  hidden_.floats(n * width_);
  q_.floats(n * q_width_);
  k_.floats(n * kv_width_);
  v_.floats(n * kv_width_);
  attended_.floats(n * q_width_);
  gate_.floats(n * ffn_width_);
  up_.floats(n * ffn_width_);
  gated_.bytes(n * ffn_width_ / kGroup * (kQuantGroupBytes + kFloatGroupBytes) + 64);
  states_.floats(n * width_);
  if (!taps_.empty()) tapped_.floats(taps_.size() * n * width_);
  int longest = 0;
  for (const RowPlan& p : rows_) longest = std::max(longest, p.length + p.nodes);
  const int widest = std::max(width_, q_width_);
  for (int t = 0; t < threads_.count(); t++) {
    const size_t tokens = t == 0 ? n : std::min<size_t>(n, kBlock);  // see prepare()
    activations_[t]->bytes(tokens * widest / kGroup * (kQuantGroupBytes + kFloatGroupBytes) + 64);
    scratch_[t]->floats(n * (size_t)width_);
    scores_[t]->floats((size_t)(kMaxQueries + 1) * padded(longest + 16));
  }
  every_.resize(n);
  std::iota(every_.begin(), every_.end(), 0);
  work_ = 0;
  const int from = resume(part, taps_);
  if (from > 0 && !pending_.empty()) {
    activate(pending_);
    run_layers(0, from, part, false);
  }
  activate(every_);
  run_layers(from, part.layers, part, true);
  if (!complete_) remember(part);
  nodes_ = (int)n;
}

void Decoder::activate(const std::vector<int>& nodes) {
  active_ = nodes;
  size_t i = 0;
  for (RowPlan& row : rows_) {
    row.first_active = (int)i;
    while (i < active_.size() && active_[i] < row.start + row.nodes) i++;
    row.num_active = (int)i - row.first_active;
  }
}

// The active nodes through the layers begin ... end-1, from their tokens or from states_. Behind the last layers of a
// call they go through the final norm; what another call or pass may go on from stays in states_.
void Decoder::run_layers(int begin, int end, const Part& part, bool last) {
  const auto skipped = part.skipped.begin();
  const int n = (int)active_.size();
  work_ += std::count(skipped + 2 * begin, skipped + 2 * end, 0) * (int64_t)n;
  if (begin == 0) add_light<&Decoder::embed>(0, n);
  else add_light<&Decoder::restore>(0, n);
  for (int l = begin; l < end; l++) {
    if (!part.skipped[2 * l]) add_attention(l);
    if (!part.skipped[2 * l + 1]) add_feed_forward(l);
    for (size_t tap = 0; tap < taps_.size(); tap++)
      if (taps_[tap] == l) add_light<&Decoder::keep_tap>((int)tap, n);
  }
  if (!last || !complete_) add_light<&Decoder::save>(0, n);
  if (last) add_light<&Decoder::finish>(0, n);
  run_phases();
}

void Decoder::restore(int, const Chunk& nodes) {
  for (int i = nodes.begin; i < nodes.end; i++)
    std::memcpy(x_.floats(0) + (size_t)i * width_, states_.floats(0) + (size_t)active_[i] * width_,
                sizeof(float) * width_);
}

void Decoder::save(int, const Chunk& nodes) {
  for (int i = nodes.begin; i < nodes.end; i++)
    std::memcpy(states_.floats(0) + (size_t)active_[i] * width_, x_.floats(0) + (size_t)i * width_,
                sizeof(float) * width_);
}

void Decoder::finish(int, const Chunk& nodes) {
  for (int i = nodes.begin; i < nodes.end; i++)
    kernels_.rms_norm(x_.floats(0) + (size_t)i * width_, weights_.final_norm.data(), config_.hidden_size, width_,
                      config_.rms_eps, hidden_.floats(0) + (size_t)active_[i] * width_);
}

void Decoder::set_fetch(int tokens, const Fetch& fetch) {
  std::lock_guard guard(lock_);
  for (int m = std::max(tokens, 0); m <= kBlock; m++) fetch_[m] = fetch;
}

void Decoder::move_weights(ptrdiff_t bytes) {
  std::lock_guard guard(lock_);
  const auto move = [&](Matrix& m) { m.data += bytes; };
  move(weights_.embed);
  move(weights_.output);
  for (Layer& l : weights_.layers)
    for (Matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) move(*m);
}

int Decoder::open() {
  std::lock_guard guard(lock_);
  return cache_.open();
}

int Decoder::fork(int row) {
  std::lock_guard guard(lock_);
  return cache_.fork(row);
}

void Decoder::close(int row) {
  std::lock_guard guard(lock_);
  cache_.close(row);
  // A new row may get this number: it must not inherit the scored tree.
  if (row < (int)progress_.size()) progress_[row].part.layers = 0;
  for (RowPlan& plan : rows_)
    if (plan.row == row) plan.row = -1;
}

int Decoder::length(int row) {
  std::lock_guard guard(lock_);
  return cache_.length(row);
}

int64_t Decoder::work() {
  std::lock_guard guard(lock_);
  return work_;
}

int64_t Decoder::cache_bytes() {
  std::lock_guard guard(lock_);
  return cache_.used_bytes();
}

void Decoder::keep(int row, const std::vector<int>& path) {
  std::lock_guard guard(lock_);
  const auto plan = std::find_if(rows_.begin(), rows_.end(), [&](const RowPlan& r) { return r.row == row; });
  if (plan == rows_.end() || !nodes_ || !complete_ || cache_.length(row) != plan->length)
    throw std::invalid_argument("row " + std::to_string(row) + " has no scored tree to keep a path of");
  std::vector<int> nodes{0};
  for (int node : path) {
    if (node <= 0 || node >= plan->nodes || parents_[plan->start + node] != nodes.back())
      throw std::invalid_argument("a path has to descend from the root, child by child");
    nodes.push_back(node);
  }
  cache_.keep(kernels_, row, nodes);
}

}  // namespace outpace
