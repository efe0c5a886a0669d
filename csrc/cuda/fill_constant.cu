// Fills with one value, and with the words of the stream themselves.
#include "cuda/single_task.cuh"

namespace fastinit::cuda {

SingleTaskKernel constant_kernel(const Transform& t) {
  return t.kind == Kind::Words ? random_kernel<Kind::Words, DType::Word, Clamp::Never>
                               : fill_single_task<ConstantFunctor>;
}

}  // namespace fastinit::cuda
