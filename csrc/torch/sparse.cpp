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
#include "torch/thread_pool.h"

namespace fastinit::ops {
namespace {

using at::Tensor;

// How many elements are ranked at a time, at about 30 bytes each.
constexpr int64_t kRankedAtOnce = int64_t{1} << 24;

void check_sparse(const Tensor& self, double sparsity, double std, const Key& key,
                  const Generator& generator) {
  const char* name = "sparse_";
  check_one_source(name, key, generator);
  check_fill(name, self, {Distribution::Normal, {0, std}});
  TORCH_CHECK_VALUE(self.dim() == 2, name, ": argument 'tensor' must have 2 dimensions, got shape ",
                    self.sizes());
  TORCH_CHECK_VALUE(sparsity >= 0 && sparsity <= 1, name,
                    ": argument 'sparsity' must be in [0, 1], but got ", sparsity);
}

void make_sparse(const Tensor& self, double sparsity, double std, const Key& key,
                 const Generator& generator) {
  const Backend& backend = *backend_of(self.device());
  check_no_overlap("sparse_", self);
  TORCH_CHECK_NOT_IMPLEMENTED(self.size(0) <= backend.most_sparse_rows,
                              "sparse_: not implemented for ", self.size(0), " rows on ",
                              self.device(), "; the CPU takes any number");
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const c10::OptionalDeviceGuard device(self.device());
  const SerialAfterFork serial;
  const int64_t word = key.has_value() ? *key : key_from("sparse_", self.device(), generator);
  // Bumps the version, too.
  fill_all("sparse_", {self}, {{Distribution::Normal, {0, std}}}, {word});
  const int64_t rows = self.size(0);
  const auto count = static_cast<int64_t>(std::ceil(sparsity * static_cast<double>(rows)));
  if (count > 0) backend.zero_smallest(self, count, static_cast<uint64_t>(word));
}

}  // namespace

// In 64-bit integers.
void zero_smallest_by_ranking(const Tensor& self, int64_t count, uint64_t key) {
  const int64_t rows = self.size(0), cols = self.size(1);
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
    const int64_t full_size[] = {rows, cols}, offset[] = {0, first};
    fill_all("sparse_", {words.t()}, {{Distribution::Words, {}, {full_size, offset}}},
             {static_cast<int64_t>(key)});
    // With the sign bit flipped, signed comparison is unsigned; the row settles ties.
    const Tensor ranks =
        words.bitwise_xor(std::numeric_limits<int32_t>::min()).to(at::kLong).mul_(int64_t{1} << 32);
    ranks.add_(row);
    const Tensor last = std::get<0>(at::kthvalue(ranks, count, 1, /*keepdim=*/true));
    values.narrow(1, first, width).masked_fill_(ranks.le(last).t(), 0);
  }
}

template <On on>
void sparse_(const Tensor& self, double sparsity, double std, Key key, Generator generator) {
  check_sparse(self, sparsity, std, key, generator);
  if (on == On::Device && self.numel() > 0)
    make_sparse(self, sparsity, std, key, generator);
  else
    bump_version(self);
}

template void sparse_<On::Device>(const Tensor&, double, double, Key, Generator);
template void sparse_<On::Meta>(const Tensor&, double, double, Key, Generator);

}  // namespace fastinit::ops
