#include "model/output.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace outpace {
namespace {

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
  return p.edit || (s.temperature > 0 && (s.top_k > 0 || s.top_p < 1 || s.min_p > 0 || s.temperature < 0.01));
}

void check_edit(const Edit& e, int vocab) {
  const auto is_outside = [&](int32_t token) { return token < 0 || token >= vocab; };
  if (std::any_of(e.ids, e.ids + e.num_ids, is_outside) ||
      std::any_of(e.repeated, e.repeated + e.num_repeated, is_outside))
    throw std::invalid_argument("an edit names a token outside the vocabulary");
  if (e.allowed && e.allowed_bytes < (vocab + 7) / 8)
    throw std::invalid_argument("a mask of allowed tokens is shorter than the vocabulary");
}

void apply_edit(const Edit& e, float* logits, int vocab) {
  for (int i = 0; i < e.num_ids; i++) logits[e.ids[i]] += e.added[i];
  for (int i = 0; i < e.num_repeated; i++) {
    float& x = logits[e.repeated[i]];
    x = x < 0 ? x * e.penalty : x / e.penalty;
  }
  for (int t = 0; e.allowed && t < vocab; t += 8) {
    const uint8_t bits = e.allowed[t / 8];
    if (bits == 0xff) continue;
    for (int i = 0; i < 8; i++)  // without branches; there is room behind the vocabulary, in tiles of 16
      logits[t + i] = bits >> i & 1 ? logits[t + i] : -std::numeric_limits<float>::infinity();
  }
}

constexpr Best kNone{-std::numeric_limits<float>::infinity(), std::numeric_limits<int32_t>::max()};

}  // namespace

void Output::forget(size_t nodes) {
  top_.resize(std::max(top_.size(), nodes * kMaxTop));
  num_top_.assign(nodes, 0);
}

// The logits after some nodes, as Products::visit_strips shows them.
template <class Visit>
void Output::visit_logits(const std::vector<int>& nodes, Visit visit, Phase after) {
  const Matrix& w = model_.output;
  products_.visit_strips(w, {call_.hidden.floats(0), (int)nodes.size(), model_.width(), forms_of({&w}), nodes.data()},
                         visit, after);
}

void Output::choose(const std::vector<Pick>& picks, int32_t* out, int top) {
  for (const Pick& p : picks) {
    call_.check_node(p.node);
    call_.check_node(p.root);
    if (p.edit) check_edit(*p.edit, model_.config.vocab_size);
  }
  for (size_t begin = 0; begin < picks.size(); begin += Products::kAtOnce)
    choose_some(picks.data() + begin, (int)std::min<size_t>(Products::kAtOnce, picks.size() - begin), out + begin,
                std::min({top, kMaxTop, model_.config.vocab_size}));
}

void Output::choose_some(const Pick* picks, int n, int32_t* out, int top) {
  const Kernels& kernels = products_.kernels();
  const int vocab = model_.config.vocab_size, num_threads = products_.threads().count();
  const size_t stride = (size_t)model_.output.tiles * kTile;
  chosen_.clear();
  noises_.clear();
  whole_.clear();  // picks that need all their logits at once
  place_.assign(n, -1);
  best_.assign((size_t)n * num_threads, kNone);
  for (int i = 0; i < n; i++) {
    const Sampling& s = *picks[i].sampling;
    chosen_.push_back(picks[i].node);
    noises_.push_back(
        noise_of(s, picks[i].position + (uint64_t)(call_.depths[picks[i].node] - call_.depths[picks[i].root])));
    if (!is_whole(picks[i])) continue;
    place_[i] = (int)whole_.size();
    whole_.push_back(i);
  }
  full_.floats(whole_.size() * stride);
  spare_.floats(whole_.empty() ? 0 : num_threads * stride);
  if (top > 0) {
    tops_.resize(std::max(tops_.size(), (size_t)n * num_threads));
    for (int i = 0; i < n * num_threads; i++) tops_[i].k = top, tops_[i].count = 0;
  }
  const auto look = [&](int t, int i, int first, int count, float* logits) {
    if (top > 0) kernels.rank(logits, first, count, tops_[(size_t)i * num_threads + t]);
    const bool is_part = place_[i] < 0;
    kernels.best_of(logits, first, count, is_part ? noises_[i] : Noise{}, best_[(size_t)t * n + i]);
    if (!is_part)
      std::copy_n(logits, (count + kTile - 1) / kTile * kTile, full_.floats(0) + place_[i] * stride + first);
  };
  const auto filter = [&](const Chunk& whole) {
    for (int f = whole.begin; f < whole.end; f++) {
      const Pick& p = picks[whole_[f]];
      const Sampling& s = *p.sampling;
      float* logits = full_.floats(0) + f * stride;
      if (p.edit) apply_edit(*p.edit, logits, vocab);
      out[whole_[f]] = kernels.choose_filtered(logits, vocab, noises_[whole_[f]], s.top_k, s.top_p, s.min_p,
                                               spare_.floats(0) + whole.thread * stride);
    }
  };
  visit_logits(chosen_, look, phase_of(filter, (int)whole_.size(), 1));
  for (int i = 0; top > 0 && i < n; i++) {
    join(tops_.data() + (size_t)i * num_threads, num_threads, top_.data() + (size_t)chosen_[i] * kMaxTop);
    num_top_[chosen_[i]] = top;
  }
  for (int i = 0; i < n; i++) {
    Best b = best_[i];
    for (int t = 1; t < num_threads; t++) {
      const Best& other = best_[(size_t)t * n + i];
      if (is_better(other, b)) b = other;
    }
    if (place_[i] < 0) out[i] = b.token < vocab ? b.token : kNoToken;
    else if (b.token == kNoToken) out[i] = kNoToken;  // before the edits: what they add may be infinite
  }
}

void Output::top(const std::vector<int>& nodes, int k, int64_t* tokens, float* values) {
  const Sampling greedy{};
  std::vector<Pick> missing;
  for (int node : nodes) {
    call_.check_node(node);
    if (num_top_[node] < k) missing.push_back({node, node, 0, &greedy, nullptr});
  }
  std::vector<int32_t> unused(missing.size());
  choose(missing, unused.data(), k);
  for (int node : nodes)
    for (int i = 0; i < k; i++) {
      const Best& best = top_[(size_t)node * kMaxTop + i];
      *tokens++ = best.token;
      *values++ = best.value;
    }
}

void Output::logits(const std::vector<int>& nodes, float* out) {
  const size_t vocab = model_.config.vocab_size;
  for (int node : nodes) call_.check_node(node);
  visit_logits(nodes, [&](int, int i, int first, int count, const float* logits) {
    std::copy_n(logits, count, out + i * vocab + first);
  });
}

std::vector<float> Output::hidden(int tap) {
  const size_t width = model_.width(), size = model_.config.hidden_size;
  const float* from = call_.hidden.floats(0);
  if (tap >= 0) {
    const auto at = std::find(call_.taps.begin(), call_.taps.end(), tap);
    if (at == call_.taps.end())
      throw std::invalid_argument("layer " + std::to_string(tap) + " was not tapped in the last call");
    from = call_.tapped.floats(0) + (size_t)(at - call_.taps.begin()) * call_.nodes * width;
  }
  std::vector<float> out;
  out.reserve(call_.nodes * size);
  for (int i = 0; i < call_.nodes; i++, from += width) out.insert(out.end(), from, from + size);
  return out;
}

void Output::set_hidden(const std::vector<int>& nodes, const float* states) {
  for (int node : nodes) call_.check_node(node);
  const size_t size = model_.config.hidden_size;
  for (int node : nodes) {
    std::copy_n(states, size, call_.hidden.row(node, model_.width()));
    num_top_[node] = 0;
    states += size;
  }
}

}  // namespace outpace
