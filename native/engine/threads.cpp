#include "engine/threads.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#include "engine/fork.hpp"
#include "kernels/kernels.hpp"

namespace outpace {
namespace {

using Clock = std::chrono::steady_clock;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// How long a thread spins before it sleeps. Within a run, for longer than threads that all have a processor differ; so
// the processor goes soon to a thread of ours that has none. Between runs, for longer than the Python part of a step.
constexpr auto kSpinWithin = std::chrono::microseconds(30), kSpinBetween = std::chrono::microseconds(300);

// Waits until the word is no longer `seen`.
void await(const std::atomic<uint32_t>& word, uint32_t seen, Clock::duration spin) {
  Clock::time_point since;
  for (int i = 1; word.load(std::memory_order_acquire) == seen; i++) {
    pause();
    if (i % 64) continue;
    if (i == 64) since = Clock::now();
    else if (Clock::now() - since > spin) return word.wait(seen, std::memory_order_acquire);
  }
}

// Before a thread looks into the shares of others: they are about to be done, unless somebody has lost a processor.
constexpr int kPausesBefore = 40;

// Shares that a thread looks into when its own is done: on machines with many threads not those of all.
constexpr int kOthers = 7;

constexpr size_t kChunkBytes = 256 * 1024;
constexpr int kChunks = 3;

}  // namespace

Threads::Threads(int count) : count_(count), shares_(new Share[count]) { gather(); }

int Threads::product_grain(int total, size_t item_bytes, int tokens) const {
  const size_t blocks = (size_t)(tokens + kBlock - 1) / kBlock, most = kChunkBytes / (item_bytes * blocks);
  return std::max(1, std::min((int)most, (total + kChunks * count_ - 1) / (kChunks * count_)));
}

Threads::~Threads() { dismiss(); }

void Threads::gather() {
  dismiss();
  stop_ = false;
  forks_ = fork_count();
  workers_ = std::make_unique<std::vector<std::thread>>();
  try {
    for (int t = 1; t < count_; t++) workers_->emplace_back([this, t] { work(t); });
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
  open(nullptr);
  for (auto& w : *workers_) w.join();
  workers_.reset();
}

void Threads::run(const std::vector<Phase>& phases) {
  if (count_ == 1) {
    for (const Phase& p : phases)
      if (p.total > 0) p.work(p.context, p.argument, {0, 0, p.total, true});
    return;
  }
  if (!workers_ || forks_ != fork_count()) gather();
  forget_old_shares();
  running_.store(true, std::memory_order_relaxed);
  end_ = phases.data() + phases.size();
  // Over is a run with its last serial number: who has written that has written all else before, and writes no more.
  const auto opened = std::count_if(phases.begin(), phases.end(), [](const Phase& p) { return p.total != 0; });
  const uint32_t last = serial_.load(std::memory_order_relaxed) + (uint32_t)opened + 1;
  open(phases.data());
  for (;;) {
    const uint32_t serial = serial_.load(std::memory_order_acquire);
    if (serial == last) return;
    take_part(0, serial);
    await(serial_, serial, kSpinWithin);
  }
}

// Serial numbers come round after a day of work. A share that had no items for half of them would look newer than it
// is.
void Threads::forget_old_shares() {
  const uint32_t serial = serial_.load(std::memory_order_relaxed);
  if (serial - forgotten_ < 1u << 30) return;
  for (int i = 0; i < count_; i++) shares_[i].taken.store((uint64_t)serial << 32, std::memory_order_relaxed);
  forgotten_ = serial;
}

void Threads::work(int thread) {
  for (;;) {
    const uint32_t serial = serial_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    take_part(thread, serial);
    await(serial_, serial, running_.load(std::memory_order_relaxed) ? kSpinWithin : kSpinBetween);
  }
}

// By the caller of a run for its first phase, then by whoever has done the last chunk of one. Null: nothing to do.
void Threads::open(const Phase* phase) {
  while (phase && phase != end_ && phase->total == 0) phase++;
  const bool over = !phase || phase == end_;
  const uint32_t serial = serial_.load(std::memory_order_relaxed) + 1;
  phase_ = phase;
  left_.store(over ? 0 : phase->total, std::memory_order_relaxed);
  sizes_[serial % 2].grain.store(over ? 1 : phase->grain, std::memory_order_relaxed);
  sizes_[serial % 2].total.store(over ? 0 : phase->total, std::memory_order_release);
  if (over) running_.store(false, std::memory_order_relaxed);
  serial_.store(serial, std::memory_order_release);
  serial_.notify_all();
}

void Threads::take_part(int thread, uint32_t serial) {
  Chunk chunk{thread, 0, 0, true};
  const Phase* phase = nullptr;
  for (int i = 0; i <= std::min(kOthers, count_ - 1); i++) {
    int done = 0;
    while (claim((thread + i) % count_, serial, chunk)) {
      phase = phase_;  // which cannot end while this chunk is not done
      phase->work(phase->context, phase->argument, chunk);
      chunk.first = false;
      done += chunk.end - chunk.begin;
    }
    if (done && left_.fetch_sub(done, std::memory_order_acq_rel) == done) return open(phase + 1);
    for (int n = 0; i == 0 && n < kPausesBefore; n++) {
      if (serial_.load(std::memory_order_acquire) != serial) return;
      pause();
    }
  }
}

// Takes the next chunk of a share, if this is the open phase and there is one. Who comes late, when the phase is over,
// may write to a share that had no items in it, which harms nobody: the last look at the serial number tells.
bool Threads::claim(int share, uint32_t serial, Chunk& chunk) {
  const Size& size = sizes_[serial % 2];
  const int64_t total = size.total.load(std::memory_order_acquire);
  const int grain = size.grain.load(std::memory_order_relaxed);
  const int begin = (int)(total * share / count_), end = (int)(total * (share + 1) / count_);
  std::atomic<uint64_t>& taken = shares_[share].taken;
  uint64_t word = taken.load(std::memory_order_relaxed);
  do {
    const int32_t age = (int32_t)(serial - (uint32_t)(word >> 32));
    chunk.begin = age > 0 ? begin : (int)(uint32_t)word;
    if (age < 0 || chunk.begin >= end) return false;
    chunk.end = std::min(chunk.begin + grain, end);
  } while (!taken.compare_exchange_weak(word, (uint64_t)serial << 32 | (uint32_t)chunk.end, std::memory_order_acq_rel,
                                        std::memory_order_relaxed));
  return serial_.load(std::memory_order_acquire) == serial;
}

}  // namespace outpace
