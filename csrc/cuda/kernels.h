// The fill kernels as the host sees them: their parameters, and where to get them.
#pragma once

#include "core/philox.h"
#include "cuda/macros.h"
#include "cuda/tiled_task.h"

namespace fastinit::cuda {

// A single task with its round keys.
struct SingleTaskParams {
  TiledTask task;
  PhiloxKeys value_keys, low_keys;
};
using SingleTaskKernel = void (*)(const SingleTaskParams);

// The kernel for a single task of a kind, in the file of its kind; null where there is none.
SingleTaskKernel constant_kernel();
SingleTaskKernel words_kernel();
SingleTaskKernel uniform_kernel(const Transform& t);
SingleTaskKernel normal_kernel(const Transform& t);
SingleTaskKernel central_kernel(const Transform& t);

// `count` tasks: up to kTasksByValue among the parameters, more in device memory. `first_tile`
// holds the number of each task's first tile and, behind the last, that of all tiles. Every thread
// block takes `tiles_per_block` tiles, the first `extra_tiles` of them another one.
constexpr uint32_t kTasksByValue = 5;
struct MultiTaskParams {
  const uint64_t* first_tile;
  const TiledTask* tasks;  // null: those by value
  uint32_t count;
  uint32_t extra_tiles;
  uint64_t tiles_per_block;
  uint64_t first_tile_by_value[kTasksByValue + 1];
  TiledTask tasks_by_value[kTasksByValue];
};
static_assert(sizeof(MultiTaskParams) <= 4096, "kernel parameters are limited");
// `shared_bytes`: what tiles of channels take, if there are any.
cudaError_t launch_multi_task(MultiTaskParams& params, uint64_t tiles, unsigned grid,
                              unsigned shared_bytes, cudaStream_t stream);

}  // namespace fastinit::cuda
