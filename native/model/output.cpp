// The output matrix and the choices made from its logits.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <stdexcept>

#include "decoder.hpp"

namespace outpace {
namespace {

constexpr int kNodesAtOnce = 64;

uint64_t splitmix64(uint64_t z) {
  z += 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

Noise noise_of(const Sampling& s, uint64_t position) {
  if (s.temperature <= 0) return {};
  const uint64_t key = splitmix64(splitmix64(s.seed) ^ position);
  return {true, (float)std::clamp(1 / s.temperature, 1e-30, 1e30), (uint32_t)key, (uint32_t)(key >> 32)};
}

// Whether a choice needs all its logits at once. Low temperatures do: over one, large logits would swallow the noise.
bool is_whole(const Pick& p) {
  const Sampling& s = *p.sampling;
  return p.num_edits || (s.temperature > 0 && (s.top_k > 0 || s.top_p < 1 || s.min_p > 0 || s.temperature < 0.01));
}

const std::vector<float> kNoBias;

constexpr Best kNone{-std::numeric_limits<float>::infinity(), std::numeric_limits<int32_t>::max()};

}  // namespace

void Decoder::check_node(int node) const {
  if (node < 0 || node >= nodes_) throw std::invalid_argument("no node " + std::to_string(node) + " in the last call");
}

// The final hidden states of some nodes, one behind the other, as the output matrix reads them.
void Decoder::collect(int, const Chunk& nodes) {
  for (int i = nodes.begin; i < nodes.end; i++)
    std::memcpy(picked_.floats(0) + (size_t)i * width_, hidden_.floats(0) + (size_t)chosen_[i] * width_,
                sizeof(float) * width_);
}

Decoder::Source Decoder::picked_source(int) {
  const bool floats = is_float(weights_.output.kind);
  return {picked_.floats(0), (int)chosen_.size(), width_, config_.hidden_size, nullptr, !floats, floats};
}

void Decoder::add_collection() {
  const int n = (int)chosen_.size();
  add_light<&Decoder::collect>(0, n);
  add_preparation<&Decoder::picked_source>(0, n);
}

void Decoder::reserve_output(int nodes, int full) {
  const size_t stride = (size_t)weights_.output.tiles * kTile;
  picked_.floats((size_t)nodes * width_);
  for (auto& s : scratch_) s->floats(std::max((size_t)nodes * kStrip * kTile, (size_t)width_));
  for (auto& a : activations_) a->bytes((size_t)nodes * width_ / kGroup * (kQuantGroupBytes + kFloatGroupBytes) + 64);
  full_.floats(full * stride);
  spare_.floats(full ? threads_.count() * stride : 0);
}

void Decoder::choose(const std::vector<Pick>& picks, int32_t* out, int top) {
  std::lock_guard guard(lock_);
  for (const Pick& p : picks) {
    check_node(p.node);
    check_node(p.root);
    for (int e = 0; e < p.num_edits; e++)
      if (p.edit_tokens[e] < 0 || p.edit_tokens[e] >= config_.vocab_size)
        throw std::invalid_argument("an edit names a token outside the vocabulary");
  }
  for (size_t begin = 0; begin < picks.size(); begin += kNodesAtOnce)
    choose_some(picks.data() + begin, (int)std::min<size_t>(kNodesAtOnce, picks.size() - begin), out + begin,
                std::min({top, kMaxTop, config_.vocab_size}));
}

void Decoder::choose_some(const Pick* picks, int n, int32_t* out, int top) {
  const Matrix& w = weights_.output;
  const int vocab = config_.vocab_size, num_threads = threads_.count(), pairs_of_tiles = (w.tiles + 1) / 2;
  const size_t stride = (size_t)w.tiles * kTile;
  chosen_.clear();
  noises_.clear();
  whole_.clear();  // picks that need all their logits at once
  place_.assign(n, -1);
  best_.assign((size_t)n * num_threads, kNone);
  for (int i = 0; i < n; i++) {
    const Sampling& s = *picks[i].sampling;
    chosen_.push_back(picks[i].node);
    noises_.push_back(noise_of(s, picks[i].position + (uint64_t)(depths_[picks[i].node] - depths_[picks[i].root])));
    if (!is_whole(picks[i])) continue;
    place_[i] = (int)whole_.size();
    whole_.push_back(i);
  }
  reserve_output(n, (int)whole_.size());
  if (top > 0) {
    tops_.resize(std::max(tops_.size(), (size_t)n * num_threads));
    for (int i = 0; i < n * num_threads; i++) tops_[i].k = top, tops_[i].count = 0;
  }
  const auto look = [&](const Chunk& pairs) {
    const Input in = input(picked_source(0), pairs);
    const int t = pairs.thread, end = std::min(2 * pairs.end, w.tiles);
    float* strip = scratch_[t]->floats(0);
    for (int tile = 2 * pairs.begin; tile < end; tile += kStrip) {
      const int tiles = std::min(kStrip, end - tile), first = tile * kTile,
                count = std::min(tiles * kTile, vocab - first);
      Matrix part = w;
      part.data += (size_t)tile * w.tile_bytes;
      multiply(part, in, n, strip, kStrip * kTile, kNoBias, false, {0, tiles});
      for (int i = 0; i < n; i++) {
        float* logits = strip + (size_t)i * kStrip * kTile;
        if (top > 0) kernels_.rank(logits, first, count, tops_[(size_t)i * num_threads + t]);
        const bool is_part = place_[i] < 0;
        kernels_.best_of(logits, first, count, is_part ? noises_[i] : Noise{}, best_[(size_t)t * n + i]);
        if (!is_part)
          std::memcpy(full_.floats(0) + place_[i] * stride + first, logits, sizeof(float) * (size_t)tiles * kTile);
      }
    }
  };
  const auto filter = [&](const Chunk& whole) {
    for (int f = whole.begin; f < whole.end; f++) {
      const Pick& p = picks[whole_[f]];
      const Sampling& s = *p.sampling;
      float* logits = full_.floats(0) + f * stride;
      for (int e = 0; e < p.num_edits; e++) logits[p.edit_tokens[e]] += p.edit_values[e];
      out[whole_[f]] = kernels_.choose_filtered(logits, vocab, noises_[whole_[f]], s.top_k, s.top_p, s.min_p,
                                                spare_.floats(0) + whole.thread * stride);
    }
  };
  add_collection();
  phases_.push_back(phase_of(look, pairs_of_tiles, threads_.product_grain(pairs_of_tiles, 2 * w.tile_bytes, n)));
  phases_.push_back(phase_of(filter, (int)whole_.size(), 1));
  run_phases();
  for (int i = 0; top > 0 && i < n; i++) {
    join(tops_.data() + (size_t)i * num_threads, num_threads, top_.data() + (size_t)chosen_[i] * kMaxTop);
    num_top_[chosen_[i]] = top;
  }
  for (int i = 0; i < n; i++) {
    Best b = best_[i];
    for (int t = 1; t < num_threads; t++) {
      const Best& other = best_[(size_t)t * n + i];
      if (other.value > b.value || (other.value == b.value && other.token < b.token)) b = other;
    }
    if (place_[i] < 0) out[i] = b.token < vocab ? b.token : kNoToken;
    else if (b.token == kNoToken) out[i] = kNoToken;  // before the edits: what they add may be infinite
  }
}

void Decoder::top(const std::vector<int>& nodes, int k, int64_t* tokens, float* values) {
  std::lock_guard guard(lock_);
  const Sampling greedy{};
  std::vector<Pick> missing;
  for (int node : nodes) {
    check_node(node);
    if (num_top_[node] < k) missing.push_back({node, node, 0, &greedy, nullptr, nullptr, 0});
  }
  std::vector<int32_t> unused(missing.size());
  for (size_t begin = 0; begin < missing.size(); begin += kNodesAtOnce)
    choose_some(missing.data() + begin, (int)std::min<size_t>(kNodesAtOnce, missing.size() - begin), unused.data(), k);
  for (int node : nodes)
    for (int i = 0; i < k; i++) {
      const Best& best = top_[(size_t)node * kMaxTop + i];
      *tokens++ = best.token;
      *values++ = best.value;
    }
}

void Decoder::logits(const std::vector<int>& nodes, float* out) {
  std::lock_guard guard(lock_);
  const Matrix& w = weights_.output;
  const int stride = w.tiles * kTile, pairs_of_tiles = (w.tiles + 1) / 2;
  for (int node : nodes) check_node(node);
  for (size_t begin = 0; begin < nodes.size(); begin += kNodesAtOnce) {
    chosen_.assign(nodes.begin() + begin, nodes.begin() + std::min(nodes.size(), begin + kNodesAtOnce));
    const int n = (int)chosen_.size();
    reserve_output(n, n);
    const auto write = [&](const Chunk& pairs) {
      multiply(w, input(picked_source(0), pairs), n, full_.floats(0), stride, kNoBias, false,
               {2 * pairs.begin, std::min(2 * pairs.end, w.tiles)});
    };
    add_collection();
    phases_.push_back(phase_of(write, pairs_of_tiles, threads_.product_grain(pairs_of_tiles, 2 * w.tile_bytes, n)));
    run_phases();
    for (int i = 0; i < n; i++)
      std::memcpy(out + (begin + i) * config_.vocab_size, full_.floats(0) + (size_t)i * stride,
                  sizeof(float) * config_.vocab_size);
  }
}

std::vector<float> Decoder::hidden(int tap) {
  std::lock_guard guard(lock_);
  const float* from = hidden_.floats(0);
  if (tap >= 0) {
    const auto at = std::find(taps_.begin(), taps_.end(), tap);
    if (at == taps_.end())
      throw std::invalid_argument("layer " + std::to_string(tap) + " was not tapped in the last call");
    from = tapped_.floats(0) + (size_t)(at - taps_.begin()) * nodes_ * width_;
  }
  std::vector<float> out;
  out.reserve((size_t)nodes_ * config_.hidden_size);
  for (int i = 0; i < nodes_; i++, from += width_) out.insert(out.end(), from, from + config_.hidden_size);
  return out;
}

void Decoder::product(const Matrix& w, const float* x, int n, float* out) {
  std::lock_guard guard(lock_);
  multiplier_.product(w, x, n, out);
}

void Decoder::product_top(const Matrix& w, const float* x, int n, int k, int64_t* rows, float* values) {
  std::lock_guard guard(lock_);
  multiplier_.top(w, x, n, k, rows, values);
}

}  // namespace outpace
