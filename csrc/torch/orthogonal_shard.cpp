// Parts of orthogonal matrices, each process by itself. Whole matrices are made as ever, and so are
// those of which a part is wanted, unless that would take much memory: see orthogonal_part.h.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>

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

Shares shares_of(const Request& request, IntArrayRef full_size, const std::vector<Box>& boxes) {
  const auto batch = static_cast<size_t>(request.batch_dims);
  const IntArrayRef matrix = full_size.slice(batch);
  Shares shares;
  for (const Box& box : boxes) {
    const bool whole = box.part.sizes().slice(batch) == matrix;
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
  for (const auto& [number, parts] : shares.parts) {
    const OrthogonalParts made(request, matrix, number, key);
    for (const Part& part : parts) made.write(part.part, part.offset);
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
      check_no_overlap(request.name, request.self);
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

#define FASTINIT_INSTANTIATE(on)                                                                  \
  template void orthogonal_shard_<on>(const Tensor&, double, IntArrayRef, IntArrayRef, int64_t,   \
                                      std::string_view, Key, Generator);                          \
  template void orthogonal_by_rows_<on>(const Tensor&, double, IntArrayRef, IntArrayRef, int64_t, \
                                        int64_t);
FASTINIT_INSTANTIATE(On::Device)
FASTINIT_INSTANTIATE(On::Meta)
#undef FASTINIT_INSTANTIATE

}  // namespace fastinit::ops
