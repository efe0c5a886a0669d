// One launch for any number of tasks of any kinds and types, as torch's multi_tensor_apply: each
// thread block takes an even share of all tiles, finds the task of its first one by bisection, and
// goes through the tasks from there.
#include "cuda/dynamic_functor.cuh"
#include "cuda/kernels.h"
#include "cuda/tiles.cuh"

namespace fastinit::cuda {
namespace {

// The same task, but the compiler must not know that nothing has changed.
FASTINIT_DEVICE const TiledTask& reload(const TiledTask& task) {
  const TiledTask* again = &task;
#if FASTINIT_DEVICE_PASS
  asm volatile("" : "+l"(again));
#endif
  return *again;
}

// The vectors of tiles begin ... end - 1; whether segments are left to be stored.
template <class Functor>
FASTINIT_DEVICE bool store_vectors(const TiledTask& task, uint64_t begin, uint64_t end) {
  bool left = false;
#pragma unroll 1
  for (uint64_t number = begin; number < end; ++number) {
    const Tile tile = tile_of(task, number);
    left |= tile.segments > 0;
    // Read only now: what a functor holds would lie in registers while a tile is worked out.
    if (tile.vectors.begin < tile.vectors.end) Functor(reload(task)).store_vectors(tile.vectors);
  }
  return left;
}

template <class Functor>
FASTINIT_DEVICE void store_segments(const TiledTask& task, uint64_t begin, uint64_t end) {
#pragma unroll 1
  for (uint64_t number = begin; number < end; ++number) {
    const uint32_t segments = tile_of(task, number).segments;
#pragma unroll 1
    for (uint32_t k = threadIdx.x; k < segments; k += kBlockThreads) {
      // Worked out again: a tile would stay in registers while samples are made.
      const TiledTask& again = reload(task);
      store_segment(Functor(again), segment_of(again, tile_of(again, number), k));
    }
  }
}

// A function of its own: inlined, its registers would be spilled by the vectorised loops.
template <bool is_f64>
__device__ __noinline__ void store_all_channels(const TiledTask& task, uint64_t begin,
                                                uint64_t end) {
#pragma unroll 1
  for (uint64_t number = begin; number < end; ++number)
    store_channels(DynamicFunctor<is_f64>(task), task, number);
}

template <Kind kind, DType dtype, Clamp clamp>
using InRegisters = RandomFunctor<ArgsIn::Registers, kind, dtype, clamp>;

// The common types have vectorised loops of their own.
template <Kind kind, Clamp clamp>
FASTINIT_DEVICE bool store_random_vectors(const TiledTask& task, uint64_t begin, uint64_t end) {
  switch (task.transform.dtype) {
    case DType::F32:
      return store_vectors<InRegisters<kind, DType::F32, clamp>>(task, begin, end);
    case DType::BF16:
      return store_vectors<InRegisters<kind, DType::BF16, clamp>>(task, begin, end);
    case DType::F16:
      return store_vectors<InRegisters<kind, DType::F16, clamp>>(task, begin, end);
    case DType::F64:
    case DType::E4M3:
    case DType::E5M2:
    case DType::Word:
    case DType::Bytes:
      break;
  }
  return true;
}

// Tiles begin ... end - 1 of a task.
FASTINIT_DEVICE void fill_tiles(const TiledTask& task, uint64_t begin, uint64_t end) {
  const Kind kind = task.transform.kind;
  if (task.access == Access::Channels)
    return task.transform.dtype == DType::F64 ? store_all_channels<true>(task, begin, end)
                                              : store_all_channels<false>(task, begin, end);
  bool left = true;
  if (task.access == Access::Rows && task.vectorized) {
    if (kind == Kind::Constant) left = store_vectors<ConstantFunctor>(task, begin, end);
    if (kind == Kind::Uniform)
      left = store_random_vectors<Kind::Uniform, Clamp::PerTask>(task, begin, end);
    if (kind == Kind::Normal)
      left = store_random_vectors<Kind::Normal, Clamp::PerTask>(task, begin, end);
    if (kind == Kind::Central)
      left = store_random_vectors<Kind::Central, Clamp::Always>(task, begin, end);
  }
  if (!left) return;
  if (kind == Kind::Constant)
    store_segments<ConstantFunctor>(task, begin, end);
  else if (task.transform.dtype == DType::F64)
    store_segments<DynamicFunctor<true>>(task, begin, end);
  else
    store_segments<DynamicFunctor<false>>(task, begin, end);
}

__global__ void __launch_bounds__(kBlockThreads, 2)
    fill_multi_task(const __grid_constant__ MultiTaskParams params) {
  const bool by_value = params.tasks == nullptr;
  const uint64_t* const first_tile = by_value ? params.first_tile_by_value : params.first_tile;
  const TiledTask* const tasks = by_value ? params.tasks_by_value : params.tasks;
  const bool has_extra = blockIdx.x < params.extra_tiles;
  uint64_t tile =
      blockIdx.x * params.tiles_per_block + (has_extra ? blockIdx.x : params.extra_tiles);
  const uint64_t end = tile + params.tiles_per_block + (has_extra ? 1 : 0);
  uint32_t low = 0, high = params.count;  // first_tile[low] <= tile < first_tile[high]
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (first_tile[middle] <= tile)
      low = middle;
    else
      high = middle;
  }
  for (; tile < end; ++low) {
    const uint64_t next = first_tile[low + 1], stop = next < end ? next : end;
    fill_tiles(tasks[low], tile - first_tile[low], stop - first_tile[low]);
    tile = stop;
  }
}

}  // namespace

cudaError_t launch_multi_task(MultiTaskParams& params, uint64_t tiles, unsigned grid,
                              unsigned shared_bytes, cudaStream_t stream) {
  params.tiles_per_block = tiles / grid;
  params.extra_tiles = static_cast<uint32_t>(tiles % grid);
  FASTINIT_LAUNCH(fill_multi_task, grid, kBlockThreads, shared_bytes, stream, params);
  return cudaGetLastError();
}

}  // namespace fastinit::cuda
