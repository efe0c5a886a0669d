// The kernel of a single random task: constants and round keys are read from the parameter.
#pragma once

#include "cuda/fill.cuh"
#include "cuda/launch.h"

namespace fastinit::cuda {

template <class Program>
__global__ void __launch_bounds__(kThreads, Program::blocks_at_once)
    fill_single(const __grid_constant__ Single single) {
  const Record& r = single.record;
  const Program program(single);
#pragma unroll 1
  for (uint64_t number = blockIdx.x; number < r.tiles; number += gridDim.x) {
    const Tile tile = tile_of(r, number);
    if (tile.units.first < tile.units.end) program.write_units(tile.units);
#pragma unroll 1
    for (uint32_t k = threadIdx.x; k < tile.count; k += kThreads)
      write(program, work_of(r, tile, k));
  }
}

template <Kind kind, DType dtype, Clamp clamp>
constexpr SingleKernel random_kernel = fill_single<Random<From::Parameter, kind, dtype, clamp>>;

template <Kind kind, Clamp clamp>
SingleKernel kernel_of_type(DType dtype) {
  switch (dtype) {
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
    default:
      return random_kernel<kind, DType::F32, clamp>;
  }
}

}  // namespace fastinit::cuda
