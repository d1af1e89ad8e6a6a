#include "engine/fork.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace outpace {
namespace {

std::atomic<uint32_t> forks{0};

struct Registry {
  std::mutex mutex;
  std::vector<ForkLock*> locks;
};

// Never destroyed: a fork may come at any time.
Registry& registry() {
  static Registry* const all = [] {
    auto* made = new Registry;
    const auto take = [] {
      registry().mutex.lock();
      for (ForkLock* lock : registry().locks) lock->lock();
    };
    const auto give = [] {
      for (ForkLock* lock : registry().locks) lock->unlock();
      registry().mutex.unlock();
    };
    const auto give_in_child = [] {
      forks.fetch_add(1);
      for (ForkLock* lock : registry().locks) lock->unlock();
      registry().mutex.unlock();
    };
    pthread_atfork(take, give, give_in_child);
    return made;
  }();
  return *all;
}

}  // namespace

ForkLock::ForkLock() {
  const std::lock_guard guard(registry().mutex);
  registry().locks.push_back(this);
}

ForkLock::~ForkLock() {
  const std::lock_guard guard(registry().mutex);
  std::erase(registry().locks, this);
}

uint32_t fork_count() { return forks.load(std::memory_order_relaxed); }

}  // namespace outpace
