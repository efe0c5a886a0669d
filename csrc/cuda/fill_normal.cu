#include "cuda/fill_single.cuh"

namespace fastinit::cuda {

SingleKernel normal_kernel(const Transform& t) {
  return t.clamped ? kernel_of_type<Kind::Normal, Clamp::Yes>(t.dtype)
                   : kernel_of_type<Kind::Normal, Clamp::No>(t.dtype);
}

}  // namespace fastinit::cuda
