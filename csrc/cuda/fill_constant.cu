// Fills with one value, and with the words of the stream themselves.
#include "cuda/fill_single.cuh"

namespace fastinit::cuda {
namespace {

template <int item>
__global__ void __launch_bounds__(kThreads) fill_constant(const __grid_constant__ Single single) {
  const Record& r = single.record;
  write_tiles(Repeat<item>(r.transform), InParameter{r}, blockIdx.x, r.tiles, gridDim.x);
}

}  // namespace

SingleKernel constant_kernel(const Transform& t) {
  if (t.kind == Kind::Words) return fill_single<Kind::Words, DType::Word, Clamp::No>;
  switch (t.item_size) {
    case 1:
      return fill_constant<1>;
    case 2:
      return fill_constant<2>;
    case 4:
      return fill_constant<4>;
    case 8:
      return fill_constant<8>;
    default:
      return fill_constant<16>;
  }
}

}  // namespace fastinit::cuda
