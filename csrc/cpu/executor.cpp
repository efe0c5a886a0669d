#include "cpu/executor.h"

#include <algorithm>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/tiles.h"

namespace fastinit::cpu {
namespace {

// Fewer elements than this per thread and waking another costs more than it saves.
constexpr int64_t kElementsPerWorker = 32 * 1024;
constexpr int64_t kTilesAtOnce = 16;

struct Job {
  const FillTask* tasks;
  std::vector<Tiling> tilings;
  std::vector<int64_t> first_tile;  // of each task, and the total at the end
  GenerateRun generate;
};

// Writes tiles, numbered over all tasks.
struct Worker {
  const Job& job;
  alignas(64) char scratch[kScratchBytes];

  explicit Worker(const Job& given) : job(given) {}

  void operator()(int64_t begin, int64_t end) {
    const auto upper = std::upper_bound(job.first_tile.begin(), job.first_tile.end(), begin);
    size_t k = static_cast<size_t>(upper - job.first_tile.begin()) - 1;
    for (int64_t tile = begin; tile < end; ++tile) {
      while (tile >= job.first_tile[k + 1]) ++k;
      write_tile(job.tasks[k], job.tilings[k], tile - job.first_tile[k], job.generate, scratch);
    }
  }
};

}  // namespace

int execute(const FillTask* tasks, size_t count, const ThreadPool& pool) {
  Job job{tasks, {}, {}, capability().generate};
  job.tilings.reserve(count);
  job.first_tile.reserve(count + 1);
  job.first_tile.push_back(0);
  int64_t elements = 0;
  for (size_t k = 0; k < count; ++k) {
    const int64_t numel = tasks[k].layout.numel();
    job.tilings.push_back(numel == 0 ? Tiling{} : tiling_of(tasks[k]));
    job.first_tile.push_back(job.first_tile.back() + job.tilings.back().tiles);
    elements += numel;
  }
  const Loop tiles{job.first_tile.back(), elements / kElementsPerWorker, kTilesAtOnce};
  return parallel_for<Worker>(pool, tiles, job);
}

}  // namespace fastinit::cpu
