// Runs a list of fill tasks on the host: tiles of all tasks over one pool of workers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/task.h"

namespace fastinit::cpu {

// The thread pool, handed in so that nothing here knows torch: calls body(context) on up to
// `workers` threads at once and returns when all have returned.
struct ThreadPool {
  int workers;
  void (*run)(int workers, void (*body)(void* context), void* context);
};

// Fills every task; tasks must not overlap in memory. Returns how many threads wrote something.
int execute(const FillTask* tasks, size_t count, const ThreadPool& pool);

}  // namespace fastinit::cpu
