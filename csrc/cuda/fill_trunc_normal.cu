#include "cuda/fill_single.cuh"

namespace fastinit::cuda {

SingleKernel trunc_normal_kernel(const Transform& t) {
  switch (t.kind) {
    case Kind::Narrow:
      return kernel_of_type<Kind::Narrow, Clamp::Yes>(t.dtype);
    case Kind::Tail:
      return kernel_of_type<Kind::Tail, Clamp::Yes>(t.dtype);
    case Kind::Far:
      return kernel_of_type<Kind::Far, Clamp::Yes>(t.dtype);
    default:
      return kernel_of_type<Kind::Central, Clamp::Yes>(t.dtype);
  }
}

}  // namespace fastinit::cuda
