#include "torch/shards.h"

#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <string>

#include "host/fp_env.h"
#include "torch/backend.h"
#include "torch/operators.h"

namespace fastinit::ops {
namespace {

using at::Tensor;

bool apart(const int64_t* a, const int64_t* b, size_t dims) {
  for (size_t k = 0; k < dims; ++k)
    if (a[k] + a[dims + k] <= b[k] || b[k] + b[dims + k] <= a[k]) return true;
  return false;
}

const DistributionRow& distribution_named(std::string_view name) {
  for (const DistributionRow& row : kDistributions)
    if (row.name == name) return row;
  TORCH_CHECK_VALUE(false, "fill_shard_: no distribution is called '", std::string(name), "'");
}

}  // namespace

bool has_elements(at::IntArrayRef full_size) {
  return std::find(full_size.begin(), full_size.end(), 0) == full_size.end();
}

std::vector<Box> boxes_of(const char* name, const Tensor& self, at::IntArrayRef full_size,
                          at::IntArrayRef boxes) {
  if (self.unsafeGetTensorImpl()->has_symbolic_sizes_strides()) return {};  // a tracer's
  if (!self.is_meta()) check_memory(name, self, /*may_overlap=*/true);
  const size_t dims = full_size.size();
  // A full tensor without dimensions has one element and one box, which no number describes.
  if (dims == 0) {
    TORCH_CHECK_VALUE(self.dim() == 0 && boxes.empty(), name,
                      ": the shard of a tensor without dimensions has none, but got size ",
                      self.sizes());
    return {{self, full_size}};
  }
  TORCH_CHECK_VALUE(boxes.size() % (3 * dims) == 0, name, ": 'boxes' has ", boxes.size(),
                    " numbers; it takes ", 3 * dims, " for each");
  std::vector<Box> found;
  std::vector<const int64_t*> places;
  for (size_t at = 0; at < boxes.size(); at += 3 * dims) {
    const int64_t* const place = boxes.data() + at;
    const at::IntArrayRef start(place, dims), size(place + dims, dims);
    TORCH_CHECK_VALUE(self.dim() == static_cast<int64_t>(dims), name, ": expects a shard of ", dims,
                      " dimensions, but got size ", self.sizes());
    Tensor part = self;
    for (size_t k = 0; k < dims; ++k) {
      const auto dim = static_cast<int64_t>(k);
      const int64_t offset = place[2 * dims + k];
      TORCH_CHECK_VALUE(start[k] >= 0 && size[k] >= 0 && start[k] <= self.size(dim) - size[k], name,
                        ": the box of size ", size, " at ", start, " is not in the shard of size ",
                        self.sizes());
      TORCH_CHECK_VALUE(offset >= 0 && offset <= full_size[k] - size[k], name, ": the box of size ",
                        size, " at offset ", at::IntArrayRef(place + 2 * dims, dims),
                        " is not in the full size ", full_size);
      part = part.narrow(dim, start[k], size[k]);
    }
    if (!has_elements(size)) continue;
    for (const int64_t* other : places)
      TORCH_CHECK_VALUE(apart(place, other, dims), name, ": two of 'boxes' share elements, at ",
                        start, " and ", at::IntArrayRef(other, dims));
    places.push_back(place);
    found.push_back({part, at::IntArrayRef(place + 2 * dims, dims)});
  }
  return found;
}

// Boxes of one shard share no memory, however their rows lie between each other's: all at once.
template <On on>
void fill_shard_(const Tensor& self, std::string_view distribution, at::ArrayRef<double> args,
                 at::IntArrayRef full_size, at::IntArrayRef boxes, Key key, Generator generator) {
  const host::FpEnv env;
  const DistributionRow& row = distribution_named(distribution);
  TORCH_CHECK_VALUE(args.size() == static_cast<size_t>(row.argument_count),
                    "fill_shard_: ", row.name, " takes ", row.argument_count, " 'args', but got ",
                    args.size());
  Fill fill{row.distribution, {}};
  std::copy(args.begin(), args.end(), fill.args);
  check_one_source(row.name, key, generator);
  check_fill(row.name, self, fill);
  {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    const std::vector<Box> found = boxes_of(row.name, self, full_size, boxes);
    if (on == On::Device && has_elements(full_size)) {
      if (row.tensors != Tensors::Any) check_memory(row.name, self);
      std::vector<FillTask> tasks;
      for (const Box& box : found) {
        fill.shard = {full_size, box.offset};
        append_tasks(row.name, tasks, box.part, fill, 0);
      }
      const Backend& backend = *backend_of(self.device());
      if (row.tensors != Tensors::Any) {
        const uint64_t word = key.has_value()
                                  ? static_cast<uint64_t>(*key)
                                  : backend.reserve_key(row.name, self.device(), generator);
        for (FillTask& task : tasks) task.key = word;
      }
      backend.execute(row.name, self.device(), tasks.data(), tasks.size());
    }
  }
  bump_version(self);
}

#define FASTINIT_INSTANTIATE(on)                                                       \
  template void fill_shard_<on>(const Tensor&, std::string_view, at::ArrayRef<double>, \
                                at::IntArrayRef, at::IntArrayRef, Key, Generator);
FASTINIT_INSTANTIATE(On::Device)
FASTINIT_INSTANTIATE(On::Meta)
#undef FASTINIT_INSTANTIATE

}  // namespace fastinit::ops
