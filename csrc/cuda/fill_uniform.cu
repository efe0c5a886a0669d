#include "cuda/fill_single.cuh"

namespace fastinit::cuda {

SingleKernel uniform_kernel(const Transform& t) {
  return t.clamped ? kernel_of_type<Kind::Uniform, Clamp::Yes>(t.dtype)
                   : kernel_of_type<Kind::Uniform, Clamp::No>(t.dtype);
}

}  // namespace fastinit::cuda
