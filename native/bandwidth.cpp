#include "bandwidth.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "pages.hpp"
#include "threads.hpp"

namespace outpace {

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
  std::vector<double> passes;
  for (int pass = 0; pass < 7; pass++) {
    const auto begin = std::chrono::steady_clock::now();
    threads.run({phase_of(read, num_threads, 1)});
    const std::chrono::duration<double> s = std::chrono::steady_clock::now() - begin;
    passes.push_back((double)lines * 64 / s.count());
  }
  volatile uint64_t sink = sums[0];  // keeps the reads
  (void)sink;
  std::nth_element(passes.begin(), passes.begin() + passes.size() / 2, passes.end());
  return passes[passes.size() / 2];
}

}  // namespace outpace
