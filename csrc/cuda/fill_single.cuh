// The kernel of a single random task: constants and round keys are read from the parameter.
#pragma once

#include "cuda/fill.cuh"
#include "cuda/launch.h"

namespace fastinit::cuda {

template <Kind kind, DType dtype, Clamp clamp>
__global__ void __launch_bounds__(kThreads) fill_single(const __grid_constant__ Single single) {
  const Record& r = single.record;
  const Random<kind, dtype, clamp> program(args_of<dtype>(r.transform), single.value, single.low,
                                           r.transform.clamped);
  write_tiles(program, InParameter{r}, blockIdx.x, r.tiles, gridDim.x);
}

template <Kind kind, Clamp clamp>
SingleKernel kernel_of_type(DType dtype) {
  switch (dtype) {
    case DType::F64:
      return fill_single<kind, DType::F64, clamp>;
    case DType::F16:
      return fill_single<kind, DType::F16, clamp>;
    case DType::BF16:
      return fill_single<kind, DType::BF16, clamp>;
    case DType::E4M3:
      return fill_single<kind, DType::E4M3, clamp>;
    case DType::E5M2:
      return fill_single<kind, DType::E5M2, clamp>;
    default:
      return fill_single<kind, DType::F32, clamp>;
  }
}

}  // namespace fastinit::cuda
