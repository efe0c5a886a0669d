// The one way that code for the CPU runs a loop on several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "host/fp_env.h"

namespace fastinit::cpu {

// The thread pool, handed in so that nothing here knows torch: calls body(context) on up to
// `workers` threads at once and returns when all have returned.
struct ThreadPool {
  int workers;
  void (*run)(int workers, void (*body)(void* context), void* context);
};

// How far a loop over items 0 ... items - 1 is spread.
struct Loop {
  int64_t items;
  int64_t useful_workers;  // more than this cost more than they save
  int64_t most_at_once = 1;
};

// Hands out ranges of items, fewer and fewer, so that no slow thread holds the others up at the
// end, and few enough to begin with.
class Shares {
 public:
  Shares(const Loop& loop, int workers) : loop_(loop), workers_(workers) {}

  bool take(int64_t& begin, int64_t& end) {
    begin = next_.load(std::memory_order_relaxed);
    do {
      if (begin >= loop_.items) return false;
      const int64_t share = (loop_.items - begin) / (4 * workers_);
      end = begin + std::max<int64_t>(1, std::min(loop_.most_at_once, share));
    } while (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed));
    return true;
  }

 private:
  const Loop loop_;
  const int workers_;
  std::atomic<int64_t> next_{0};
};

// Each thread makes a Worker(job), under our floating-point environment, and calls it with the
// ranges it takes. Returns how many threads had something to do.
template <class Worker, class Job>
int parallel_for(const ThreadPool& pool, const Loop& loop, const Job& job) {
  const int64_t wanted = std::min({int64_t{pool.workers}, loop.items, loop.useful_workers});
  const int workers = static_cast<int>(std::max<int64_t>(1, wanted));
  struct Shared {
    const Job& job;
    Shares shares;
    std::atomic<int> threads{0};
  } shared{job, {loop, workers}};
  const auto work = [](void* context) {
    Shared& of = *static_cast<Shared*>(context);
    int64_t begin, end;
    if (!of.shares.take(begin, end)) return;
    of.threads.fetch_add(1, std::memory_order_relaxed);
    const host::FpEnv env;
    Worker worker(of.job);
    do worker(begin, end);
    while (of.shares.take(begin, end));
  };
  if (workers == 1)
    work(&shared);
  else
    pool.run(workers, work, &shared);
  return shared.threads.load();
}

}  // namespace fastinit::cpu
