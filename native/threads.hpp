// A persistent pool of threads that run one function together, with a barrier between its phases. In the child of a
// fork, which has none of them, they are started anew by the first run.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace outpace {

class Threads {
 public:
  // Throws std::invalid_argument where so many cannot be started.
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return count_; }

  // Calls fn(thread) on every thread, the caller being thread 0; returns when all have returned.
  template <class Fn>
  void run(Fn&& fn) {
    start([](void* context, int thread) { (*static_cast<Fn*>(context))(thread); }, &fn);
    fn(0);
    barrier();
  }

  // Every thread of the running function has to come here before any goes on.
  void barrier();

 private:
  using Call = void (*)(void* context, int thread);
  void start(Call call, void* context);
  void gather();
  void dismiss();
  void work(int thread, uint32_t seen);

  const int count_;
  std::unique_ptr<std::vector<std::thread>> workers_;
  uint32_t forks_ = 0;  // fork_count() when they were started
  Call call_ = nullptr;
  void* context_ = nullptr;
  bool stop_ = false;
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

// Bytes per second of a plain read of num_bytes of memory by num_threads threads, the median of a few passes.
double read_bandwidth(int num_threads, size_t num_bytes);

}  // namespace outpace
