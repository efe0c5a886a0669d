// A file of its own, for its twelve kernels compile slowly, and files in parallel.
#include "cuda/single_task.cuh"

namespace fastinit::cuda {

SingleTaskKernel normal_kernel(const Transform& t) {
  return t.clamped ? random_kernel_of<Kind::Normal, Clamp::Always>(t.dtype)
                   : random_kernel_of<Kind::Normal, Clamp::Never>(t.dtype);
}

}  // namespace fastinit::cuda
