// Fills with one value, and with the words of the stream themselves.
#include "cuda/fill_single.cuh"

namespace fastinit::cuda {

SingleKernel constant_kernel(const Transform& t) {
  return t.kind == Kind::Words ? random_kernel<Kind::Words, DType::Word, Clamp::No>
                               : fill_single<Repeat>;
}

}  // namespace fastinit::cuda
