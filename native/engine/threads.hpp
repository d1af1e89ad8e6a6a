// A persistent pool of threads that run a list of phases together. Each phase is a number of items, which all have to
// be done before the next phase begins.
//
// Items are taken in chunks: every thread has a share of its own, of neighbouring items, and takes it front to back;
// who has none left waits a moment and then takes from the shares of others. A phase ends when its work is done,
// whoever has done it: nobody waits for a thread that has lost its processor, but for the chunk that it has in hand.
// Who waits for long, sleeps.
//
// In the child of a fork, which has none of the threads, they are started anew by the first run.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace outpace {

// Items begin ... end-1 of a phase, for a thread; `first`: it had none of this phase before.
struct Chunk {
  int thread, begin, end;
  bool first;
};

struct Phase {
  void (*work)(void* context, int argument, const Chunk& chunk);
  void* context;
  int argument, total, grain;  // grain: items of a chunk, at most
};

// fn(chunk) for all items. fn has to live until the phase has run.
template <class Fn>
Phase phase_of(Fn& fn, int total, int grain) {
  return {[](void* context, int, const Chunk& chunk) { (*static_cast<Fn*>(context))(chunk); },
          const_cast<std::remove_const_t<Fn>*>(&fn), 0, total, grain};
}

class Threads {
 public:
  // Throws std::invalid_argument where so many cannot be started.
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return count_; }

  // Items of a product to a chunk, for so many bytes of weights to an item: a third of a thread's share, so that little
  // is left to whoever takes over from a thread without a processor, and at most some ten microseconds.
  int product_grain(int total, size_t item_bytes, int tokens) const;

  // The caller is thread 0. What one phase has written, every thread sees in the next.
  void run(const std::vector<Phase>& phases);

 private:
  void gather();
  void dismiss();
  void work(int thread);
  void open(const Phase* phase);
  void forget_old_shares();
  void take_part(int thread, uint32_t serial);
  bool claim(int share, uint32_t serial, Chunk& chunk);

  const int count_;
  std::unique_ptr<std::vector<std::thread>> workers_;
  uint32_t forks_ = 0;      // fork_count() when they were started
  uint32_t forgotten_ = 0;  // the serial number when all shares were made as new
  std::atomic<bool> stop_{false};
  std::atomic<bool> running_{false};  // tells workers how long to spin, and no more

  const Phase* end_ = nullptr;
  alignas(64) std::atomic<int> left_{0};  // items not yet done
  // The open phase, on one cache line. Its end opens the next one, under a new serial number; behind the last one
  // nothing is left to take.
  alignas(64) std::atomic<uint32_t> serial_{0};
  // By the parity of the serial number, so that who comes late from the phase before reads no mixture of two.
  struct Size {
    std::atomic<int> total{0}, grain{1};
  } sizes_[2];
  const Phase* phase_ = nullptr;  // read only by who has a chunk of it in hand
  // The serial number of the phase in which the share was last taken from (high half), and its next item.
  struct alignas(64) Share {
    std::atomic<uint64_t> taken{0};
  };
  std::unique_ptr<Share[]> shares_;
};

}  // namespace outpace
