#include "threads.hpp"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "fork.hpp"

namespace outpace {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins while others are surely running, then lets them have the processor.
template <class Done>
void spin_until(Done done) {
  for (int i = 0; !done(); i++) {
    if (i < 2000) pause();
    else sched_yield();
  }
}

// A worker sleeps when nothing has come for about this long: longer than the Python part of a step.
constexpr auto kAwake = std::chrono::microseconds(300);

}  // namespace

Threads::Threads(int count) : count_(count) { gather(); }

Threads::~Threads() { dismiss(); }

void Threads::gather() {
  dismiss();
  stop_ = false;
  forks_ = fork_count();
  workers_ = std::make_unique<std::vector<std::thread>>();
  const uint32_t seen = epoch_.load(std::memory_order_relaxed);
  try {
    for (int t = 1; t < count_; t++) workers_->emplace_back([this, t, seen] { work(t, seen); });
  } catch (...) {  // std::system_error: no more threads, or no memory for their stacks
    const size_t most = workers_->size() + 1;
    dismiss();
    throw std::invalid_argument("this process can have " + std::to_string(most) + " threads, not " +
                                std::to_string(count_));
  }
}

void Threads::dismiss() {
  if (!workers_) return;
  if (forks_ != fork_count()) {  // the parent's: here there is nothing to join
    (void)workers_.release();
    return;
  }
  stop_ = true;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (auto& w : *workers_) w.join();
  workers_.reset();
}

void Threads::start(Call call, void* context) {
  if (count_ == 1) return;
  if (!workers_ || forks_ != fork_count()) gather();
  call_ = call;
  context_ = context;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
}

void Threads::work(int thread, uint32_t seen) {
  for (;;) {
    const auto since = std::chrono::steady_clock::now();
    for (int i = 1; epoch_.load(std::memory_order_acquire) == seen; i++) {
      pause();
      if (i % 256 == 0 && std::chrono::steady_clock::now() - since > kAwake)
        epoch_.wait(seen, std::memory_order_acquire);
    }
    seen++;
    if (stop_) return;
    call_(context_, thread);
    barrier();
  }
}

void Threads::barrier() {
  if (count_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == count_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
  } else {
    spin_until([&] { return phase_.load(std::memory_order_acquire) != phase; });
  }
}

double read_bandwidth(int num_threads, size_t num_bytes) {
  const size_t words = std::max<size_t>(num_bytes / 8, 1) / 64 * 64 + 64;
  std::unique_ptr<uint64_t[]> data(new uint64_t[words]);
  Threads threads(num_threads);
  std::vector<uint64_t> sums((size_t)num_threads * 8);
  threads.run(
      [&](int t) { std::fill(data.get() + words * t / num_threads, data.get() + words * (t + 1) / num_threads, 1); });
  std::vector<double> passes;
  for (int pass = 0; pass < 7; pass++) {
    const auto begin = std::chrono::steady_clock::now();
    threads.run([&](int t) {
      uint64_t sum[8] = {};
      const uint64_t* p = data.get() + words / 64 * t / num_threads * 64;
      const uint64_t* end = data.get() + words / 64 * (t + 1) / num_threads * 64;
      for (; p < end; p += 8)
        for (int i = 0; i < 8; i++) sum[i] += p[i];
      for (int i = 1; i < 8; i++) sum[0] += sum[i];
      sums[(size_t)t * 8] = sum[0];
    });
    const std::chrono::duration<double> s = std::chrono::steady_clock::now() - begin;
    passes.push_back((double)words * 8 / s.count());
  }
  volatile uint64_t sink = sums[0];  // keeps the reads
  (void)sink;
  std::nth_element(passes.begin(), passes.begin() + passes.size() / 2, passes.end());
  return passes[passes.size() / 2];
}

}  // namespace outpace
