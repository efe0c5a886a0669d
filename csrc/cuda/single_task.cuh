// The kernel for a single task: its constants and round keys are read from the kernel's parameters.
// Instantiated in a file per distribution (fill_*.cu), for that takes nvcc long.
#pragma once

#include "cuda/kernels.h"
#include "cuda/tiles.cuh"

namespace fastinit::cuda {

template <class Functor>
__global__ void __launch_bounds__(kBlockThreads, Functor::min_blocks_per_multiprocessor)
    fill_single_task(const __grid_constant__ SingleTaskParams params) {
  const TiledTask& task = params.task;
  const Functor functor(params);
  if constexpr (!Functor::constant) {
    if (task.access == Access::Channels) {
#pragma unroll 1
      for (uint64_t number = blockIdx.x; number < task.tiles; number += gridDim.x)
        store_channels(functor, task, number);
      return;
    }
  }
#pragma unroll 1
  for (uint64_t number = blockIdx.x; number < task.tiles; number += gridDim.x) {
    const Tile tile = tile_of(task, number);
    if (tile.vectors.begin < tile.vectors.end) functor.store_vectors(tile.vectors);
#pragma unroll 1
    for (uint32_t k = threadIdx.x; k < tile.segments; k += kBlockThreads)
      store_segment(functor, segment_of(task, tile, k));
  }
}

template <Kind kind, DType dtype, Clamp clamp>
constexpr SingleTaskKernel random_kernel =
    fill_single_task<RandomFunctor<ArgsIn::ConstantBank, kind, dtype, clamp>>;

template <Kind kind, Clamp clamp>
SingleTaskKernel random_kernel_of(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return random_kernel<kind, DType::F32, clamp>;
    case DType::F64:
      return random_kernel<kind, DType::F64, clamp>;
    case DType::F16:
      return random_kernel<kind, DType::F16, clamp>;
    case DType::BF16:
      return random_kernel<kind, DType::BF16, clamp>;
    case DType::E4M3:
      return random_kernel<kind, DType::E4M3, clamp>;
    case DType::E5M2:
      return random_kernel<kind, DType::E5M2, clamp>;
    case DType::Word:
    case DType::Bytes:
      break;
  }
  return nullptr;
}

}  // namespace fastinit::cuda
