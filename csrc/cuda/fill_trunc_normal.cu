// The branch of the truncated normal that initialisation uses, for the common types; the others
// travel as a list of one.
#include "cuda/single_task.cuh"

namespace fastinit::cuda {

SingleTaskKernel central_kernel(const Transform& t) {
  switch (t.dtype) {
    case DType::F32:
      return random_kernel<Kind::Central, DType::F32, Clamp::Always>;
    case DType::F16:
      return random_kernel<Kind::Central, DType::F16, Clamp::Always>;
    case DType::BF16:
      return random_kernel<Kind::Central, DType::BF16, Clamp::Always>;
    case DType::F64:
    case DType::E4M3:
    case DType::E5M2:
    case DType::Word:
    case DType::Bytes:
      break;
  }
  return nullptr;
}

}  // namespace fastinit::cuda
