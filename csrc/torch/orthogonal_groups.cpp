#include "torch/orthogonal_groups.h"

#include <ATen/TensorUtils.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/view_as_real.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>

#include "torch/backend.h"
#include "torch/fills.h"
#include "torch/full_precision.h"
#include "torch/reflections.h"
#include "torch/thread_pool.h"

namespace fastinit::ops {
namespace {

using at::ScalarType;
using at::Tensor;
using Request = OrthogonalRequest;

// Complex memory need not be aligned to more than its parts (NumPy's is not), which ATen's loops
// over complex numbers rely on; those over the parts do not.
void copy(const Tensor& to, const Tensor& from) {
  if (to.is_complex())
    at::view_as_real(to).copy_(at::view_as_real(from));
  else
    to.copy_(from);
}

bool is_aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % t.element_size() == 0;
}

// A tensor as the matrices to fill: (matrices, rows, cols).
struct Target {
  Tensor self;
  Tensor matrices;  // a view of `self`, or memory of the compute type where there can be none
  Tensor gaussian;  // in place of the draws; or undefined
  int64_t key, first;
};

Target make_target(const Request& request, int64_t key) {
  const Tensor& self = request.self;
  int64_t count = 1;
  for (int64_t k = 0; k < request.batch_dims; ++k) count *= self.size(k);
  const int64_t rows = self.size(request.batch_dims);
  const std::vector<int64_t> size{count, rows, self.numel() / (count * rows)};
  const auto options = self.options().dtype(compute_type(self.scalar_type()));
  Target target{self, Tensor(), Tensor(), key, request.first};
  if (request.given) {
    target.gaussian = at::empty(size, options);
    copy(target.gaussian.view(self.sizes()), self);
  }
  const auto strides = at::detail::computeStride(self.sizes(), self.strides(), size);
  target.matrices = strides.has_value() && is_aligned(self) ? self.as_strided(size, *strides)
                                                            : at::empty(size, options);
  return target;
}

// ---- one group of matrices of one shape ---------------------------------------------------------

struct Piece {
  const Target* target;
  int64_t first, count;  // of the target's matrices
  Tensor out;            // where they are made, in the compute type
};

struct Group {
  std::vector<const Target*> targets;
  int64_t rows, cols;
  ScalarType type;
  at::Device device;
  double gain;
  bool qr;
  int64_t width;  // of Request
  bool frugal;    // 16 bits computed in 32, or complex products, whose conjugates are copies
};

SmallShape small_shape(const Group& group) {
  return {*float_dtype(group.type), group.rows, group.cols, group.gain};
}

// Whether the device's kernel for small matrices makes them.
bool is_small(const Group& group) {
  return !group.qr && group.width == 0 && !at::isComplexType(group.type) &&
         backend_of(group.device)->makes_small(small_shape(group));
}

bool row_major(const Tensor& matrices) {
  const auto size = matrices.sizes(), stride = matrices.strides();
  return (stride[2] == 1 || size[2] == 1) && (stride[1] == size[2] || size[1] == 1);
}

// Whether matrix products write there without a copy.
bool blas_strides(const Tensor& matrices) {
  const auto size = matrices.sizes(), stride = matrices.strides();
  return (stride[2] == 1 && stride[1] >= size[2]) || (stride[1] == 1 && stride[2] >= size[1]);
}

// Draws the part of the pieces' Gaussians that lies right of and below (k, k), or copies it.
void draw_pieces(const std::vector<Piece>& pieces, const Tensor& panel, int64_t k) {
  std::vector<Tensor> parts;
  std::vector<Fill> fills;
  std::vector<int64_t> keys;
  std::vector<std::array<int64_t, 3>> sizes, offsets;
  sizes.reserve(pieces.size());  // the fills refer to them
  offsets.reserve(pieces.size());
  int64_t at = 0;
  for (const Piece& piece : pieces) {
    const Tensor part = panel.narrow(0, at, piece.count);
    at += piece.count;
    if (piece.target->gaussian.defined()) {
      part.copy_(piece.target->gaussian.narrow(0, piece.first, piece.count)
                     .narrow(1, k, part.size(1))
                     .narrow(2, k, part.size(2)));
      continue;
    }
    parts.push_back(part);
    const Tensor& matrices = piece.target->matrices;
    const int64_t first = piece.target->first;
    sizes.push_back({first + matrices.size(0), matrices.size(1), matrices.size(2)});
    offsets.push_back({first + piece.first, k, k});
    fills.push_back({Distribution::Normal, {0, 1}, {sizes.back(), offsets.back()}});
    keys.push_back(piece.target->key);
  }
  fill_all("orthogonal_", parts, fills, keys);
}

void make_small(const Group& group, const std::vector<Piece>& pieces) {
  const SmallShape shape = small_shape(group);
  const int64_t bytes = shape.size() * static_cast<int64_t>(c10::elementSize(group.type));
  std::vector<SmallBatch> batches;
  for (const Piece& piece : pieces) {
    const Tensor& gaussian = piece.target->gaussian;
    const auto* given =
        gaussian.defined() ? static_cast<const char*>(gaussian.const_data_ptr()) : nullptr;
    batches.push_back({static_cast<uint64_t>(piece.target->key),
                       static_cast<uint64_t>(piece.target->first + piece.first) *
                           static_cast<uint64_t>(shape.size()),
                       given == nullptr ? nullptr : given + piece.first * bytes,
                       piece.out.mutable_data_ptr(), piece.out.stride(0), piece.count});
  }
  backend_of(group.device)
      ->make_orthogonal("orthogonal_", group.device, shape, batches.data(), batches.size());
}

// How many matrices are made together, and so need memory together.
int64_t matrices_at_once(const Group& group) {
  const Backend& backend = *backend_of(group.device);
  const int64_t bytes =
      group.rows * group.cols * static_cast<int64_t>(c10::elementSize(group.type));
  const int64_t most = is_small(group) ? backend.small_matrix_bytes : backend.matrix_bytes;
  return std::max<int64_t>(1, most / std::max<int64_t>(1, bytes));
}

void make_pieces(const Group& group, std::vector<Piece>& pieces) {
  const bool small = is_small(group);
  int64_t count = 0, buffered = 0;
  const auto direct = [&](const Piece& piece) {
    const Tensor& to = piece.target->matrices;
    if (to.scalar_type() != group.type) return false;
    return small ? row_major(to) : pieces.size() == 1 && blas_strides(to);
  };
  for (const Piece& piece : pieces) {
    count += piece.count;
    if (!direct(piece)) buffered += piece.count;
  }
  Tensor buffer;
  if (buffered > 0)
    buffer = at::empty({buffered, group.rows, group.cols},
                       pieces[0].target->self.options().dtype(group.type));
  int64_t used = 0;
  for (Piece& piece : pieces) {
    if (direct(piece)) {
      piece.out = piece.target->matrices.narrow(0, piece.first, piece.count);
    } else {
      piece.out = buffer.narrow(0, used, piece.count);
      used += piece.count;
    }
  }
  if (small) {
    make_small(group, pieces);
  } else {
    const Tensor& out = pieces.size() == 1 ? pieces[0].out : buffer;
    const auto draw = [&](const Tensor& panel, int64_t k) { draw_pieces(pieces, panel, k); };
    if (group.qr)
      qr(out, group.gain, draw);
    else
      householder(out, group.gain, group.width > 0 ? group.width : panel_width(out, group.frugal),
                  draw);
  }
  for (Piece& piece : pieces) {
    const Tensor to = piece.target->matrices.narrow(0, piece.first, piece.count);
    if (!piece.out.is_alias_of(to)) write_orthogonal(to, piece.out, group.gain);
  }
}

void make_group(const Group& group) {
  const int64_t limit = matrices_at_once(group);
  std::vector<Piece> pieces;
  int64_t taken = 0;
  const auto flush = [&] {
    if (!pieces.empty()) make_pieces(group, pieces);
    pieces.clear();
    taken = 0;
  };
  for (const Target* target : group.targets) {
    const int64_t count = target->matrices.size(0);
    for (int64_t first = 0; first < count;) {
      const int64_t n = std::min(limit - taken, count - first);
      pieces.push_back({target, first, n, Tensor()});
      first += n;
      taken += n;
      if (taken == limit) flush();
    }
  }
  flush();
}

}  // namespace

ScalarType compute_type(ScalarType type) {
  const bool wide = type == ScalarType::Double || type == ScalarType::ComplexFloat ||
                    type == ScalarType::ComplexDouble;
  return wide ? type : ScalarType::Float;
}

void write_orthogonal(const Tensor& to, const Tensor& values, double gain) {
  const DType dtype = *float_dtype(to.scalar_type());
  const double max = format_of(dtype).max;
  const bool saturates = item_size(dtype) < 4 && std::abs(gain) > max;
  copy(to, saturates ? values.clamp(-max, max) : values);
}

void check_request(const Request& request, std::optional<at::IntArrayRef> full_size) {
  check_fill(request.name, request.self, {Distribution::Normal, {0, 1}});
  const int64_t dims = full_size ? static_cast<int64_t>(full_size->size()) : request.self.dim();
  TORCH_CHECK_VALUE(request.batch_dims >= 0, request.name,
                    ": argument 'batch_dims' must not be negative, but got ", request.batch_dims);
  TORCH_CHECK_VALUE(dims >= 2 + request.batch_dims, request.name,
                    ": argument 'tensor' must have at least 2 dimensions",
                    request.batch_dims > 0 ? " besides those of the batch" : "", ", but got shape ",
                    full_size ? *full_size : request.self.sizes(),
                    " and batch_dims=", request.batch_dims);
  TORCH_CHECK(std::isfinite(request.gain), request.name,
              ": argument 'gain' must be finite, but got ", request.gain);
  TORCH_CHECK_VALUE(request.method == "householder" || request.method == "qr", request.name,
                    ": argument 'method' must be 'householder' or 'qr', but got '",
                    std::string(request.method), "'");
}

void make_orthogonal(const std::vector<OrthogonalRequest>& requests, at::IntArrayRef keys) {
  if (requests.empty()) return;
  const FullPrecision precision;
  const SerialAfterFork serial;
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const c10::OptionalDeviceGuard device(requests[0].self.device());
  std::vector<Target> targets;
  for (size_t k = 0; k < requests.size(); ++k) targets.push_back(make_target(requests[k], keys[k]));
  std::vector<Span> spans;
  for (const Target& target : targets) spans.push_back(span_of(target.self));
  const bool in_order = any_overlap(spans);
  // Same-shaped matrices are made together, in the order in which their shapes first occur.
  // Gains are compared by their bits: a NaN is not less than, nor equal to, any other.
  using Same = std::tuple<size_t, int64_t, int64_t, ScalarType, uint64_t, bool, int64_t, bool>;
  std::map<Same, size_t> numbers;
  std::vector<Group> groups;
  for (size_t k = 0; k < requests.size(); ++k) {
    const Target& target = targets[k];
    const Group group{{},
                      target.matrices.size(1),
                      target.matrices.size(2),
                      compute_type(target.self.scalar_type()),
                      target.self.device(),
                      requests[k].gain,
                      requests[k].method == "qr",
                      requests[k].width,
                      target.self.is_complex() || target.self.element_size() < 4};
    uint64_t gain;
    memcpy(&gain, &group.gain, sizeof gain);
    const Same same{in_order ? k : 0, group.rows,  group.cols,  group.type, gain,
                    group.qr,         group.width, group.frugal};
    const auto [found, added] = numbers.emplace(same, groups.size());
    if (added) groups.push_back(group);
    groups[found->second].targets.push_back(&target);
  }
  for (const Group& group : groups) {
    make_group(group);
    for (const Target* target : group.targets)
      if (!target->matrices.is_alias_of(target->self))
        write_orthogonal(target->self, target->matrices.view(target->self.sizes()), group.gain);
  }
}

}  // namespace fastinit::ops
