#include "engine/bandwidth.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "engine/pages.hpp"
#include "engine/threads.hpp"

namespace outpace {
namespace {

constexpr int kPasses = 7;

// The median of the passes: what one has done by the seconds that it took.
template <class Pass>
double median_rate(Pass pass) {
  double rates[kPasses];
  for (double& rate : rates) {
    const auto begin = std::chrono::steady_clock::now();
    const double done = pass();
    const std::chrono::duration<double> s = std::chrono::steady_clock::now() - begin;
    rate = done / s.count();
  }
  std::nth_element(rates, rates + kPasses / 2, rates + kPasses);
  return rates[kPasses / 2];
}

}  // namespace

double read_bandwidth(const Kernels& kernels, int num_threads, size_t num_bytes, bool huge) {
  const size_t lines = std::max<size_t>(num_bytes / 64, 1);
  const Pages memory(lines * 64, huge);
  Threads threads(num_threads);
  // Every thread has one item: its part of the lines.
  const auto part = [&](int t) { return memory.data() + lines * t / num_threads * 64; };
  const auto fill = [&](const Chunk& c) {
    for (int t = c.begin; t < c.end; t++) std::fill(part(t), part(t + 1), 1);
  };
  threads.run({phase_of(fill, num_threads, 1)});
  std::vector<float> sums((size_t)num_threads * 16);
  double best = 0;
  for (const Fetch& fetch : {Fetch{0, 0}, Fetch{1, 8192}, Fetch{2, 16384}}) {
    const auto read = [&](const Chunk& c) {
      for (int t = c.begin; t < c.end; t++)
        sums[(size_t)t * 16] += kernels.read(part(t), (size_t)(part(t + 1) - part(t)) / 64, fetch);
    };
    best = std::max(best, median_rate([&] {
                      threads.run({phase_of(read, num_threads, 1)});
                      return (double)lines * 64;
                    }));
  }
  volatile float sink = sums[0];  // keeps the reads
  (void)sink;
  return best;
}

double multiply_add_rate(const Kernels& kernels, int num_threads, bool quantised) {
  constexpr int kRounds = 100000;
  Threads threads(num_threads);
  std::vector<int64_t> done((size_t)num_threads * 8);
  const auto spin = [&](const Chunk& c) { done[(size_t)c.thread * 8] += kernels.saturate(quantised, kRounds); };
  return median_rate([&] {
    std::fill(done.begin(), done.end(), 0);
    threads.run({phase_of(spin, 8 * num_threads, 1)});
    int64_t all = 0;
    for (int64_t one : done) all += one;
    return (double)all;
  });
}

}  // namespace outpace
