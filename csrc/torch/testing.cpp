// Operators for tests and benchmarks alone, torch.ops.fastinit_testing: parts of the library that
// users reach only as parts of something else.
#include "torch/testing.h"

#include <ATen/core/LegacyTypeDispatch.h>

#include "torch/backend.h"
#include "torch/elementwise.h"
#include "torch/operators.h"
#include "torch/orthogonal_groups.h"

namespace fastinit::ops {
namespace {

using at::Tensor;

// sparse_'s zeros as devices without a kernel of their own make them. `place`: the rows and columns
// of the whole, and the first of each that are here; or nothing, for the whole.
template <On on>
void zero_smallest_(const Tensor& self, int64_t count, int64_t key, at::IntArrayRef place) {
  const char* name = "zero_smallest_";
  check_writable(name, self);
  TORCH_CHECK_VALUE(self.dim() == 2 && (place.empty() || place.size() == 4), name,
                    ": expects 2 dimensions, and 4 numbers for a place, but got shape ",
                    self.sizes(), " and ", place);
  const MatrixPlace whole = place.empty() ? MatrixPlace{self.size(0), self.size(1), 0, 0}
                                          : MatrixPlace{place[0], place[1], place[2], place[3]};
  TORCH_CHECK_VALUE(count >= 1 && count <= whole.rows, name, ": expects a count of 1 to ",
                    whole.rows, ", the number of rows, but got ", count);
  if (on == On::Device && self.numel() > 0) {
    check_memory(name, self);
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    zero_smallest_by_ranking(self, whole, count, static_cast<uint64_t>(key));
  }
  bump_version(self);
}

// orthogonal_ from the Gaussian that the tensor holds, and with a number of reflections at once:
// what the tests compare with explicit products, and benchmarks/reflections_at_once.py measures.
template <On on>
void orthogonal_from_(const Tensor& self, double gain, int64_t batch_dims, std::string_view method,
                      int64_t width) {
  OrthogonalRequest request{"orthogonal_from_", self, gain, batch_dims, method};
  request.given = true;
  TORCH_CHECK_VALUE(width >= 0, request.name, ": argument 'width' must not be negative, but got ",
                    width);
  request.width = width;
  check_request(request);
  if (on == On::Device && self.numel() > 0) {
    check_memory(request.name, self);
    make_orthogonal({request}, {0});
  }
  bump_version(self);
}

int64_t last_threads() { return last_fill_threads(); }

std::vector<int64_t> fill_waves(at::TensorList tensors) { return waves_of(tensors); }

const Operators& operators() {
  static const Operators table{
      elementwise_operator<Distribution::Words>(),
      {"zero_smallest_", "Tensor(a!) self, int count, int key, int[] place=[]", false,
       make<&zero_smallest_<On::Device>>, make<&zero_smallest_<On::Meta>>, nullptr},
      {"orthogonal_from_",
       "Tensor(a!) self, float gain=1., int batch_dims=0, str method='householder', int width=0",
       false, make<&orthogonal_from_<On::Device>>, make<&orthogonal_from_<On::Meta>>, nullptr},
      {"orthogonal_by_rows_",
       "Tensor(a!) self, float gain, int[] full_size, int[] boxes, int batch_dims=0, *, int key",
       false, make<&orthogonal_by_rows_<On::Device>>, make<&orthogonal_by_rows_<On::Meta>>,
       nullptr},
      {"last_fill_threads", "", false, nullptr, nullptr, make<&last_threads>, "int"},
      {"fill_waves", "Tensor[] tensors", false, nullptr, nullptr, make<&fill_waves>, "int[]"},
  };
  return table;
}

FASTINIT_LIBRARY(fastinit_testing, operators)

}  // namespace
}  // namespace fastinit::ops
