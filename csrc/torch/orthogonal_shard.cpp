// Parts of orthogonal matrices, each process by itself. Whole matrices are made as ever, and so are
// those of which a part is wanted, unless that would take much memory: see orthogonal_part.h.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <map>
#include <vector>

#include "torch/backend.h"
#include "torch/full_precision.h"
#include "torch/operators.h"
#include "torch/orthogonal_groups.h"
#include "torch/orthogonal_part.h"
#include "torch/shards.h"
#include "torch/thread_pool.h"

namespace fastinit::ops {
namespace {

using at::IntArrayRef;
using at::Tensor;
using Request = OrthogonalRequest;

// Elements of matrices of which parts are wanted, made together.
constexpr int64_t kWholeAtOnce = int64_t{1} << 24;
// Above that, how many times as long as wide a matrix has to be to be made of its rows: a square
// one would need as much memory that way, and more time.
constexpr int64_t kSlender = 3;

// A box of one matrix: what is filled, and its offset there.
struct Part {
  Tensor part;
  IntArrayRef offset;
};

// Calls f(part, number) for every run of matrices whose numbers in the whole batch follow each
// other: `batch_dims` of a part is 1 or 0 then.
template <class F>
void each_run(const Tensor& part, IntArrayRef offset, IntArrayRef full_size, int64_t batch_dims,
              int64_t number, const F& f) {
  if (batch_dims == 0) return f(part, number);
  const int64_t first = number * full_size[0] + offset[0];
  if (batch_dims == 1) return f(part, first);
  for (int64_t k = 0; k < part.size(0); ++k)
    each_run(part.select(0, k), offset.slice(1), full_size.slice(1), batch_dims - 1, first + k, f);
}

struct Shares {
  std::vector<Request> whole;
  std::map<int64_t, std::vector<Part>> parts;  // by number of the matrix
};

// `apart`: whole matrices are kept apart from parts.
Shares shares_of(const Request& request, IntArrayRef full_size, const std::vector<Box>& boxes,
                 bool apart = true) {
  const auto batch = static_cast<size_t>(request.batch_dims);
  const IntArrayRef matrix = full_size.slice(batch);
  Shares shares;
  for (const Box& box : boxes) {
    const bool whole = apart && box.part.sizes().slice(batch) == matrix;
    const IntArrayRef offset = box.offset.slice(batch);
    each_run(box.part, box.offset, full_size, request.batch_dims, 0,
             [&](const Tensor& part, int64_t number) {
               const int64_t dims = part.dim() - static_cast<int64_t>(matrix.size());
               if (whole) {
                 Request run{request.name, part, request.gain, dims, request.method};
                 run.first = number;
                 shares.whole.push_back(run);
               } else if (dims == 0) {
                 shares.parts[number].push_back({part, offset});
               } else {
                 for (int64_t k = 0; k < part.size(0); ++k)
                   shares.parts[number + k].push_back({part.select(0, k), offset});
               }
             });
  }
  return shares;
}

void make_all(const std::vector<Request>& requests, int64_t key) {
  make_orthogonal(requests, std::vector<int64_t>(requests.size(), key));
}

// Makes the matrices whole, some at a time, and copies the parts.
void make_parts_of_whole(const Request& request, IntArrayRef matrix, const Shares& shares,
                         int64_t key) {
  const int64_t size = c10::multiply_integers(matrix);
  std::vector<Request> requests;
  const auto flush = [&] {
    make_all(requests, key);
    for (const Request& made : requests)
      for (const Part& part : shares.parts.at(made.first)) {
        Tensor from = made.self;
        for (int64_t k = 0; k < from.dim(); ++k)
          from = from.narrow(k, part.offset[k], part.part.size(k));
        write_orthogonal(part.part, from, 1);
      }
    requests.clear();
  };
  for (const auto& [number, parts] : shares.parts) {
    Request made{request.name, at::empty(matrix, request.self.options()), request.gain, 0,
                 request.method};
    made.first = number;
    requests.push_back(made);
    if (static_cast<int64_t>(requests.size() + 1) * size > kWholeAtOnce) flush();
  }
  flush();
}

void make_shard(const Request& request, IntArrayRef full_size, const std::vector<Box>& boxes,
                bool by_rows, int64_t key) {
  const FullPrecision precision;
  const SerialAfterFork serial;
  const c10::OptionalDeviceGuard device(request.self.device());
  const IntArrayRef matrix = full_size.slice(static_cast<size_t>(request.batch_dims));
  const Shares shares = shares_of(request, full_size, boxes);
  make_all(shares.whole, key);
  const int64_t size = c10::multiply_integers(matrix);
  const int64_t rows = matrix[0], cols = size / rows;
  const bool slender = std::max(rows, cols) >= kSlender * std::min(rows, cols);
  if (request.method == "qr" || !(by_rows || (slender && size > kWholeAtOnce)))
    return make_parts_of_whole(request, matrix, shares, key);
  const at::TensorOptions options =
      request.self.options().dtype(compute_type(request.self.scalar_type()));
  for (const auto& [number, parts] : shares.parts) {
    const OrthogonalParts made(request.name, common_of(matrix, options), matrix, number, key);
    made.add(0, std::max(rows, cols));
    made.reflect(request.gain);
    for (const Part& part : parts) made.write(part.part, part.offset, request.gain);
  }
}

template <On on>
void fill(const Request& request, IntArrayRef full_size, IntArrayRef boxes, bool by_rows, Key key,
          const Generator& generator) {
  check_one_source(request.name, key, generator);
  check_request(request, full_size);
  {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    const std::vector<Box> found = boxes_of(request.name, request.self, full_size, boxes);
    if (on == On::Device && has_elements(full_size)) {
      check_memory(request.name, request.self);
      make_shard(request, full_size, found, by_rows,
                 key.has_value() ? *key : key_from(request.name, request.self.device(), generator));
    }
  }
  bump_version(request.self);
}

}  // namespace

template <On on>
void orthogonal_shard_(const Tensor& self, double gain, IntArrayRef full_size, IntArrayRef boxes,
                       int64_t batch_dims, std::string_view method, Key key, Generator generator) {
  fill<on>({"orthogonal_", self, gain, batch_dims, method}, full_size, boxes, false, key,
           generator);
}

template <On on>
void orthogonal_by_rows_(const Tensor& self, double gain, IntArrayRef full_size, IntArrayRef boxes,
                         int64_t batch_dims, int64_t key) {
  fill<on>({"orthogonal_by_rows_", self, gain, batch_dims, "householder"}, full_size, boxes, true,
           key, std::nullopt);
}

// ---- the same by several processes, which add up the sums between these operators ---------------

namespace {

void check_common(const char* name, const Tensor& common, IntArrayRef matrix) {
  check_request({name, common, 1, 0, "householder"}, matrix);
  TORCH_CHECK_VALUE(compute_type(common.scalar_type()) == common.scalar_type() &&
                        has_elements(matrix) && common.dim() == 2,
                    name, ": expects the sums of a matrix that has elements, in the type that is ",
                    "computed in, but got size ", common.sizes(), " and dtype ",
                    common.scalar_type(), " for a matrix of size ", matrix);
}

}  // namespace

template <On on>
void orthogonal_sums_(const Tensor& self, IntArrayRef matrix, int64_t number, int64_t begin,
                      int64_t end, int64_t key) {
  const char* name = "orthogonal_sums_";
  check_common(name, self, matrix);
  if (on == On::Device) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    const FullPrecision precision;
    const SerialAfterFork serial;
    const c10::OptionalDeviceGuard device(self.device());
    const OrthogonalParts made(name, self, matrix, number, key);
    const int64_t longer = std::max(matrix[0], c10::multiply_integers(matrix.slice(1)));
    TORCH_CHECK_VALUE(0 <= begin && begin <= end && end <= longer, name, ": expects rows of ",
                      longer, ", but got ", begin, " to ", end);
    made.add(begin, end);
  }
  bump_version(self);
}

template <On on>
void orthogonal_reflect_(const Tensor& self, double gain, IntArrayRef matrix, int64_t number,
                         int64_t key) {
  const char* name = "orthogonal_reflect_";
  check_common(name, self, matrix);
  if (on == On::Device) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    const FullPrecision precision;
    const SerialAfterFork serial;
    const c10::OptionalDeviceGuard device(self.device());
    OrthogonalParts(name, self, matrix, number, key).reflect(gain);
  }
  bump_version(self);
}

template <On on>
void orthogonal_of_reflectors_(const Tensor& self, const Tensor& reflectors, double gain,
                               IntArrayRef full_size, IntArrayRef boxes, int64_t batch_dims,
                               int64_t number, int64_t key) {
  const Request request{"orthogonal_of_reflectors_", self, gain, batch_dims, "householder"};
  check_request(request, full_size);
  const IntArrayRef matrix = full_size.slice(static_cast<size_t>(batch_dims));
  check_common(request.name, reflectors, matrix);
  TORCH_CHECK_VALUE(compute_type(self.scalar_type()) == reflectors.scalar_type(), request.name,
                    ": expects reflectors in ", compute_type(self.scalar_type()), ", but got ",
                    reflectors.scalar_type());
  {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    const std::vector<Box> found = boxes_of(request.name, self, full_size, boxes);
    if (on == On::Device) {
      check_memory(request.name, self);
      const FullPrecision precision;
      const SerialAfterFork serial;
      const c10::OptionalDeviceGuard device(self.device());
      const Shares shares = shares_of(request, full_size, found, false);
      const OrthogonalParts made(request.name, reflectors, matrix, number, key);
      if (const auto parts = shares.parts.find(number); parts != shares.parts.end())
        for (const Part& part : parts->second) made.write(part.part, part.offset, gain);
    }
  }
  bump_version(self);
}

#define FASTINIT_INSTANTIATE(on)                                                                  \
  template void orthogonal_shard_<on>(const Tensor&, double, IntArrayRef, IntArrayRef, int64_t,   \
                                      std::string_view, Key, Generator);                          \
  template void orthogonal_by_rows_<on>(const Tensor&, double, IntArrayRef, IntArrayRef, int64_t, \
                                        int64_t);                                                 \
  template void orthogonal_sums_<on>(const Tensor&, IntArrayRef, int64_t, int64_t, int64_t,       \
                                     int64_t);                                                    \
  template void orthogonal_reflect_<on>(const Tensor&, double, IntArrayRef, int64_t, int64_t);    \
  template void orthogonal_of_reflectors_<on>(const Tensor&, const Tensor&, double, IntArrayRef,  \
                                              IntArrayRef, int64_t, int64_t, int64_t);
FASTINIT_INSTANTIATE(On::Device)
FASTINIT_INSTANTIATE(On::Meta)
#undef FASTINIT_INSTANTIATE

}  // namespace fastinit::ops
