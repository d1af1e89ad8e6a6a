// Cosines and sines of rotary embeddings, filled as texts grow.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>

#include "model/model.hpp"

namespace outpace {

class Rope {
 public:
  explicit Rope(const Config& c)
      : config_(c), angles_(new float[c.rope_inv_freq.size() * c.context_length * (size_t)c.head_dim]) {}

  void fill(int positions) {
    if (positions <= filled_) return;
    positions = std::min(config_.context_length, (positions + 255) / 256 * 256);
    const int half = config_.head_dim / 2;
    for (int table = 0; table < (int)config_.rope_inv_freq.size(); table++)
      for (int p = filled_; p < positions; p++)
        for (int i = 0; i < half; i++) {
          const double angle = (float)p * config_.rope_inv_freq[table][i];
          at(table, p)[i] = (float)std::cos(angle) * config_.rope_scale[table];
          at(table, p)[half + i] = (float)std::sin(angle) * config_.rope_scale[table];
        }
    filled_ = positions;
  }

  // The cosines of a position, and behind them the sines. [2][head_dim / 2]
  float* at(int table, int position) const {
    return angles_.get() + ((size_t)table * config_.context_length + position) * config_.head_dim;
  }

 private:
  const Config& config_;
  int filled_ = 0;
  std::unique_ptr<float[]> angles_;  // [tables][context][2][head_dim / 2]
};

}  // namespace outpace
