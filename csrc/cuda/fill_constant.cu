// Fills with one value, and with Philox words as they are.
#include "cuda/single_task.cuh"

namespace fastinit::cuda {

SingleTaskKernel constant_kernel() { return fill_single_task<ConstantFunctor>; }

SingleTaskKernel words_kernel() { return random_kernel<Kind::Words, DType::Word, Clamp::Never>; }

}  // namespace fastinit::cuda
