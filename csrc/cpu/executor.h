// Runs a list of fill tasks on the host: tiles of all tasks over one pool of workers.
#pragma once

#include <cstddef>

#include "core/task.h"
#include "cpu/parallel.h"

namespace fastinit::cpu {

// Fills every task; tasks must not overlap in memory. Returns how many threads wrote something.
int execute(const FillTask* tasks, size_t count, const ThreadPool& pool);

}  // namespace fastinit::cpu
