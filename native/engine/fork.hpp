// What the child of a fork finds: it has one thread, whatever its parent had.
#pragma once
#include <cstdint>
#include <mutex>

namespace outpace {

// A mutex that nobody holds in the child of a fork, with nothing half done behind it: fork() waits for all of them.
class ForkLock {
 public:
  ForkLock();
  ~ForkLock();
  ForkLock(const ForkLock&) = delete;
  ForkLock& operator=(const ForkLock&) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

// How many forks lie behind this process. Threads that were started at another number do not exist in it.
uint32_t fork_count();

}  // namespace outpace
