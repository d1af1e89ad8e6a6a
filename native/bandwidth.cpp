#include "bandwidth.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "pages.hpp"
#include "threads.hpp"

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

double read_bandwidth(int num_threads, size_t num_bytes, bool huge) {
  constexpr size_t kLine = 8;  // words
  const size_t lines = std::max<size_t>(num_bytes / 64, 1);
  const Pages memory(lines * 64, huge);
  uint64_t* data = reinterpret_cast<uint64_t*>(memory.data());
  Threads threads(num_threads);
  std::vector<uint64_t> sums((size_t)num_threads * kLine);
  // Every thread has one item: its part of the lines.
  const auto part = [&](int t) { return data + lines * t / num_threads * kLine; };
  const auto fill = [&](const Chunk& c) {
    for (int t = c.begin; t < c.end; t++) std::fill(part(t), part(t + 1), 1);
  };
  const auto read = [&](const Chunk& c) {
    for (int t = c.begin; t < c.end; t++) {
      uint64_t sum[kLine] = {};
      const uint64_t* end = part(t + 1);
      for (const uint64_t* p = part(t); p < end; p += kLine)
        for (size_t i = 0; i < kLine; i++) sum[i] += p[i];
      for (size_t i = 1; i < kLine; i++) sum[0] += sum[i];
      sums[(size_t)t * kLine] = sum[0];
    }
  };
  threads.run({phase_of(fill, num_threads, 1)});
  const double rate = median_rate([&] {
    threads.run({phase_of(read, num_threads, 1)});
    return (double)lines * 64;
  });
  volatile uint64_t sink = sums[0];  // keeps the reads
  (void)sink;
  return rate;
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
