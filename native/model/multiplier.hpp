// Products of packed matrices with a few vectors, for what stands beside a model (proposal heads), on its threads but
// in buffers of its own. An output's bits depend neither on the number of vectors nor on that of threads.
#pragma once
#include <cstdint>
#include <vector>

#include "engine/buffer.hpp"
#include "engine/threads.hpp"
#include "kernels/kernels.hpp"

namespace outpace {

class Multiplier {
 public:
  Multiplier(const Kernels& kernels, Threads& threads);

  // x [n][cols] times w: out [n][rows].
  void product(const Matrix& w, const float* x, int n, float* out);
  // The k <= min(kMaxTop, rows of w) largest of each of these products, best first, of equal ones the lower row. [n][k]
  void top(const Matrix& w, const float* x, int n, int k, int64_t* rows, float* values);

 private:
  struct alignas(64) Desk {
    Buffer row, activations, strip;
  };
  template <class Visit>
  void strips(const Matrix& w, const float* x, int n, Visit visit);
  void prepare(Desk& desk, const Matrix& w, const float* x, int n) const;

  const Kernels& kernels_;
  Threads& threads_;
  std::vector<Desk> desks_;  // per thread
  std::vector<Top> tops_;    // [n][threads]
};

// The k best of what threads have found, each among tokens of its own, into out [k].
void join(const Top* parts, int num_parts, Best* out);

}  // namespace outpace
