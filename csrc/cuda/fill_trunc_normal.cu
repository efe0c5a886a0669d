// The branch of the truncated normal that initialisation uses, for the common types; the others
// travel as a list of one.
#include "cuda/fill_single.cuh"

namespace fastinit::cuda {

SingleKernel central_kernel(const Transform& t) {
  switch (t.dtype) {
    case DType::F32:
      return random_kernel<Kind::Central, DType::F32, Clamp::Yes>;
    case DType::F16:
      return random_kernel<Kind::Central, DType::F16, Clamp::Yes>;
    case DType::BF16:
      return random_kernel<Kind::Central, DType::BF16, Clamp::Yes>;
    default:
      return nullptr;
  }
}

}  // namespace fastinit::cuda
