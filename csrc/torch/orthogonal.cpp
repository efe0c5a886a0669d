// The operators that fill with orthogonal matrices. What is filled, in which batches and through
// which layout is decided in orthogonal_groups.cpp; the arithmetic is in reflections.cpp and in the
// kernels for small matrices.
#include <ATen/MemoryOverlap.h>
#include <ATen/core/enum_tag.h>
#include <torch/library.h>

#include "torch/orthogonal_groups.h"
#include "torch/support.h"
#include "torch/tasks.h"

namespace fastinit::ops {
namespace {

using at::Tensor;
using Request = OrthogonalRequest;

void check_request(const Request& request) {
  const Fill gaussian{request.name, Distribution::Normal, {0, 1, 0, 0}};
  check_fill(request.self, gaussian);
  TORCH_CHECK_VALUE(request.batch_dims >= 0, request.name,
                    ": argument 'batch_dims' must not be negative, but got ", request.batch_dims);
  TORCH_CHECK_VALUE(request.self.dim() >= 2 + request.batch_dims, request.name,
                    ": argument 'tensor' must have at least 2 dimensions",
                    request.batch_dims > 0 ? " besides those of the batch" : "", ", but got shape ",
                    request.self.sizes(), " and batch_dims=", request.batch_dims);
  TORCH_CHECK_VALUE(request.method == "householder" || request.method == "qr", request.name,
                    ": argument 'method' must be 'householder' or 'qr', but got '",
                    std::string(request.method), "'");
}

void orthogonal_(const Tensor& self, double gain, int64_t batch_dims, std::string_view method,
                 std::optional<int64_t> key, std::optional<at::Generator> generator) {
  const Request request{"orthogonal_", self, gain, batch_dims, method};
  check_one_source(request.name, key, generator);
  check_request(request);
  if (self.numel() > 0) {
    at::assert_no_internal_overlap(self);
    make_orthogonal({request}, {key.has_value() ? *key : reserve_key_of(self.device(), generator)});
  }
  bump_version(self);
}

void orthogonal_meta_(const Tensor& self, double gain, int64_t batch_dims, std::string_view method,
                      std::optional<int64_t> key, std::optional<at::Generator> generator) {
  const Request request{"orthogonal_", self, gain, batch_dims, method};
  check_one_source(request.name, key, generator);
  check_request(request);
  bump_version(self);
}

using Keys = std::optional<at::ArrayRef<int64_t>>;

std::vector<Request> many_requests(at::TensorList tensors, at::ArrayRef<double> gains,
                                   int64_t batch_dims, std::string_view method, const Keys& keys,
                                   const std::optional<at::Generator>& generator) {
  const char* name = "orthogonal_many_";
  const size_t n = tensors.size();
  TORCH_CHECK(gains.size() == n, name, ": expects one of 'gains' per tensor, ", n, ", but got ",
              gains.size());
  TORCH_CHECK(!keys.has_value() || keys->size() == n, name, ": expects one of 'keys' per tensor, ",
              n, ", but got ", keys.has_value() ? keys->size() : 0);
  TORCH_CHECK(!(keys.has_value() && generator.has_value() && generator->defined()), name,
              ": pass either 'keys' or 'generator', not both");
  std::vector<Request> requests;
  for (size_t k = 0; k < n; ++k) {
    TORCH_CHECK(tensors[k].device() == tensors[0].device(), name,
                ": expects tensors of one device, but got ", tensors[k].device(), " beside ",
                tensors[0].device());
    requests.push_back({name, tensors[k], gains[k], batch_dims, method});
    check_request(requests.back());
  }
  return requests;
}

void orthogonal_many_(at::TensorList tensors, at::ArrayRef<double> gains, int64_t batch_dims,
                      std::string_view method, Keys keys, std::optional<at::Generator> generator) {
  const auto all = many_requests(tensors, gains, batch_dims, method, keys, generator);
  for (const Tensor& t : tensors)
    if (t.numel() > 0) at::assert_no_internal_overlap(t);
  std::vector<Request> filled;
  std::vector<int64_t> their_keys;
  for (size_t k = 0; k < all.size(); ++k) {
    if (tensors[k].numel() == 0) continue;
    filled.push_back(all[k]);
    their_keys.push_back(keys.has_value() ? (*keys)[k]
                                          : reserve_key_of(tensors[k].device(), generator));
  }
  make_orthogonal(filled, their_keys);
  for (const Tensor& t : tensors) bump_version(t);
}

void orthogonal_many_meta_(at::TensorList tensors, at::ArrayRef<double> gains, int64_t batch_dims,
                           std::string_view method, Keys keys,
                           std::optional<at::Generator> generator) {
  many_requests(tensors, gains, batch_dims, method, keys, generator);
  for (const Tensor& t : tensors) bump_version(t);
}

// The same from the Gaussian that the tensor holds, and with a number of reflections at once: what
// the tests compare with explicit products, and benchmarks/reflections_at_once.py measures.
void orthogonal_from_(const Tensor& self, double gain, int64_t batch_dims, std::string_view method,
                      int64_t width) {
  Request request{"orthogonal_from_", self, gain, batch_dims, method};
  request.given = true;
  TORCH_CHECK_VALUE(width >= 0, request.name, ": argument 'width' must not be negative, but got ",
                    width);
  request.width = width;
  check_request(request);
  if (self.numel() > 0) make_orthogonal({request}, {0});
  bump_version(self);
}

template <class Library>
void implement_orthogonal(Library& m) {
  m.impl("orthogonal_", orthogonal_);
  m.impl("orthogonal_many_", orthogonal_many_);
  m.impl("orthogonal_from_", orthogonal_from_);
}

}  // namespace
}  // namespace fastinit::ops

TORCH_LIBRARY_FRAGMENT(fastinit, m) {
  m.def(
      "orthogonal_(Tensor(a!) self, float gain=1., int batch_dims=0, str method='householder', *, "
      "int? key=None, Generator? generator=None) -> ()",
      {at::Tag::nondeterministic_seeded, at::Tag::pt2_compliant_tag});
  m.def(
      "orthogonal_many_(Tensor(a!)[] tensors, float[] gains, int batch_dims=0, "
      "str method='householder', *, int[]? keys=None, Generator? generator=None) -> ()",
      {at::Tag::nondeterministic_seeded, at::Tag::pt2_compliant_tag});
  m.def(
      "orthogonal_from_(Tensor(a!) self, float gain=1., int batch_dims=0, "
      "str method='householder', int width=0) -> ()",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fastinit, CPU, m) { fastinit::ops::implement_orthogonal(m); }

TORCH_LIBRARY_IMPL(fastinit, CUDA, m) { fastinit::ops::implement_orthogonal(m); }

TORCH_LIBRARY_IMPL(fastinit, Meta, m) {
  m.impl("orthogonal_", fastinit::ops::orthogonal_meta_);
  m.impl("orthogonal_many_", fastinit::ops::orthogonal_many_meta_);
}
