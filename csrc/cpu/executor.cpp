#include "cpu/executor.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/tiles.h"
#include "host/fp_env.h"

namespace fastinit::cpu {
namespace {

// Fewer elements than this per thread and waking another costs more than it saves.
constexpr int64_t kElementsPerWorker = 32 * 1024;

struct Job {
  const FillTask* tasks;
  std::vector<TilePlan> plans;
  std::vector<int64_t> first_tile;  // of each task, and the total at the end
  int workers;
  GenerateRun generate;
  std::atomic<int64_t> next{0};
  std::atomic<int> threads{0};
};

// The next tiles of a worker: fewer and fewer, so that no slow thread holds the others up at the
// end, and few enough to begin with.
bool take(Job& job, int64_t total, int64_t& begin, int64_t& end) {
  begin = job.next.load(std::memory_order_relaxed);
  do {
    if (begin >= total) return false;
    const int64_t share = (total - begin) / (4 * job.workers);
    end = begin + std::max<int64_t>(1, std::min<int64_t>(16, share));
  } while (!job.next.compare_exchange_weak(begin, end, std::memory_order_relaxed));
  return true;
}

void work(void* context) {
  Job& job = *static_cast<Job*>(context);
  const host::FpEnv env;
  alignas(64) char scratch[kScratchBytes];
  const int64_t total = job.first_tile.back();
  bool counted = false;
  int64_t begin, end;
  while (take(job, total, begin, end)) {
    if (!counted) {
      job.threads.fetch_add(1, std::memory_order_relaxed);
      counted = true;
    }
    const auto upper = std::upper_bound(job.first_tile.begin(), job.first_tile.end(), begin);
    size_t k = static_cast<size_t>(upper - job.first_tile.begin()) - 1;
    for (int64_t tile = begin; tile < end; ++tile) {
      while (tile >= job.first_tile[k + 1]) ++k;
      write_tile(job.tasks[k], job.plans[k], tile - job.first_tile[k], job.generate, scratch);
    }
  }
}

}  // namespace

int execute(const FillTask* tasks, size_t count, const ThreadPool& pool) {
  Job job;
  job.tasks = tasks;
  job.generate = capability().generate;
  job.plans.reserve(count);
  job.first_tile.reserve(count + 1);
  job.first_tile.push_back(0);
  int64_t elements = 0;
  for (size_t k = 0; k < count; ++k) {
    const int64_t numel = tasks[k].layout.numel();
    job.plans.push_back(numel == 0 ? TilePlan{} : plan_tiles(tasks[k]));
    job.first_tile.push_back(job.first_tile.back() + job.plans.back().tiles);
    elements += numel;
  }
  const int64_t tiles = job.first_tile.back();
  if (tiles == 0) return 0;
  const int64_t useful = std::min(tiles, elements / kElementsPerWorker);
  const int workers =
      static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(pool.workers, useful)));
  job.workers = workers;
  if (workers == 1)
    work(&job);
  else
    pool.run(workers, work, &job);
  return job.threads.load();
}

}  // namespace fastinit::cpu
