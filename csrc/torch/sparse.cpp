// sparse_: normal draws, of which each column loses an exact number to zeros.
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/kthvalue.h>
#include <c10/core/DeviceGuard.h>

#include <cmath>

#include "torch/backend.h"
#include "torch/operators.h"
#include "torch/shards.h"
#include "torch/thread_pool.h"

namespace fastinit::ops {
namespace {

using at::Tensor;

// How many elements are ranked at a time, at about 30 bytes each.
constexpr int64_t kRankedAtOnce = int64_t{1} << 24;

// Of the shard of a tensor of `full_size`, or of a whole one.
void check_sparse(const Tensor& self, std::optional<at::IntArrayRef> full_size, double sparsity,
                  double std, const Key& key, const Generator& generator) {
  const char* name = "sparse_";
  check_one_source(name, key, generator);
  check_fill(name, self, {Distribution::Normal, {0, std}});
  TORCH_CHECK_VALUE((full_size ? full_size->size() : self.dim()) == 2, name,
                    ": argument 'tensor' must have 2 dimensions, got shape ",
                    full_size ? *full_size : self.sizes());
  TORCH_CHECK_VALUE(sparsity >= 0 && sparsity <= 1, name,
                    ": argument 'sparsity' must be in [0, 1], but got ", sparsity);
}

// Parts of one matrix that has elements.
void make_sparse(const Tensor& self, at::IntArrayRef full_size, const std::vector<Box>& boxes,
                 double sparsity, double std, const Key& key, const Generator& generator) {
  const char* name = "sparse_";
  const Backend& backend = *backend_of(self.device());
  const int64_t rows = full_size[0];
  check_memory(name, self);
  TORCH_CHECK_NOT_IMPLEMENTED(rows <= backend.most_sparse_rows, "sparse_: not implemented for ",
                              rows, " rows on ", self.device(), "; the CPU takes any number");
  const c10::OptionalDeviceGuard device(self.device());
  const SerialAfterFork serial;
  const int64_t word = key.has_value() ? *key : key_from(name, self.device(), generator);
  const auto count = static_cast<int64_t>(std::ceil(sparsity * static_cast<double>(rows)));
  for (const Box& box : boxes) {
    // Bumps the version, too, of a whole tensor.
    fill_all(name, {box.part}, {{Distribution::Normal, {0, std}, {full_size, box.offset}}}, {word});
    const MatrixPlace whole{rows, full_size[1], box.offset[0], box.offset[1]};
    if (count > 0) backend.zero_smallest(box.part, whole, count, static_cast<uint64_t>(word));
  }
}

}  // namespace

// In 64-bit integers.
void zero_smallest_by_ranking(const Tensor& self, const MatrixPlace& whole, int64_t count,
                              uint64_t key) {
  const int64_t rows = whole.rows, cols = self.size(1);
  if (count == rows) {
    self.zero_();
    return;
  }
  const Tensor values = self.element_size() == 1 ? self.view(at::kByte) : self;  // masks no float8
  const Tensor row = at::arange(rows, self.options().dtype(at::kLong));
  const int64_t at_once = std::max<int64_t>(1, kRankedAtOnce / rows);
  for (int64_t first = 0; first < cols; first += at_once) {
    const int64_t width = std::min(at_once, cols - first);
    // Stored column by column, which is how they are ranked.
    const Tensor words = at::empty({width, rows}, self.options().dtype(at::kInt));
    const int64_t full_size[] = {rows, whole.cols}, offset[] = {0, whole.first_col + first};
    fill_all("sparse_", {words.t()}, {{Distribution::Words, {}, {full_size, offset}}},
             {static_cast<int64_t>(key)});
    // With the sign bit flipped, signed comparison is unsigned; the row settles ties.
    const Tensor ranks =
        words.bitwise_xor(std::numeric_limits<int32_t>::min()).to(at::kLong).mul_(int64_t{1} << 32);
    ranks.add_(row);
    const Tensor last = std::get<0>(at::kthvalue(ranks, count, 1, /*keepdim=*/true));
    const Tensor own = ranks.narrow(1, whole.first_row, self.size(0));
    values.narrow(1, first, width).masked_fill_(own.le(last).t(), 0);
  }
}

template <On on>
void sparse_(const Tensor& self, double sparsity, double std, Key key, Generator generator) {
  check_sparse(self, std::nullopt, sparsity, std, key, generator);
  if (on == On::Device && self.numel() > 0) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    const int64_t offset[] = {0, 0};
    make_sparse(self, self.sizes(), {{self, offset}}, sparsity, std, key, generator);
  } else {
    bump_version(self);
  }
}

template <On on>
void sparse_shard_(const Tensor& self, double sparsity, double std, at::IntArrayRef full_size,
                   at::IntArrayRef boxes, Key key, Generator generator) {
  check_sparse(self, full_size, sparsity, std, key, generator);
  {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    const std::vector<Box> found = boxes_of("sparse_", self, full_size, boxes);
    if (on == On::Device && has_elements(full_size))
      make_sparse(self, full_size, found, sparsity, std, key, generator);
  }
  bump_version(self);
}

#define FASTINIT_INSTANTIATE(on)                                                                   \
  template void sparse_<on>(const Tensor&, double, double, Key, Generator);                        \
  template void sparse_shard_<on>(const Tensor&, double, double, at::IntArrayRef, at::IntArrayRef, \
                                  Key, Generator);
FASTINIT_INSTANTIATE(On::Device)
FASTINIT_INSTANTIATE(On::Meta)
#undef FASTINIT_INSTANTIATE

}  // namespace fastinit::ops
