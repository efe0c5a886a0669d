// The operators that fill with orthogonal matrices. What is filled, in which batches and through
// which layout is decided in orthogonal_groups.cpp; the arithmetic is in reflections.cpp and in the
// kernels for small matrices.
#include "torch/operators.h"
#include "torch/orthogonal_groups.h"

namespace fastinit::ops {
namespace {

using at::Tensor;
using Request = OrthogonalRequest;

std::vector<Request> many_requests(at::TensorList tensors, at::ArrayRef<double> gains,
                                   int64_t batch_dims, std::string_view method, const Keys& keys,
                                   const Generator& generator) {
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

}  // namespace

template <On on>
void orthogonal_(const Tensor& self, double gain, int64_t batch_dims, std::string_view method,
                 Key key, Generator generator) {
  const Request request{"orthogonal_", self, gain, batch_dims, method};
  check_one_source(request.name, key, generator);
  check_request(request);
  if (on == On::Device && self.numel() > 0) {
    check_memory(request.name, self);
    make_orthogonal({request},
                    {key.has_value() ? *key : key_from(request.name, self.device(), generator)});
  }
  bump_version(self);
}

template <On on>
void orthogonal_many_(at::TensorList tensors, at::ArrayRef<double> gains, int64_t batch_dims,
                      std::string_view method, Keys keys, Generator generator) {
  const auto all = many_requests(tensors, gains, batch_dims, method, keys, generator);
  std::vector<Request> filled;
  std::vector<int64_t> their_keys;
  if (on == On::Device) {
    for (const Request& request : all)
      if (request.self.numel() > 0) check_memory(request.name, request.self);
    for (size_t k = 0; k < all.size(); ++k) {
      if (tensors[k].numel() == 0) continue;
      filled.push_back(all[k]);
      their_keys.push_back(
          keys.has_value() ? (*keys)[k] : key_from(all[k].name, tensors[k].device(), generator));
    }
  }
  make_orthogonal(filled, their_keys);
  for (const Tensor& t : tensors) bump_version(t);
}

void orthogonal_many_nowhere_(at::TensorList tensors, at::ArrayRef<double> gains,
                              int64_t batch_dims, std::string_view method, Keys keys,
                              Generator generator) {
  check_nowhere("orthogonal_many_", tensors);
  many_requests(tensors, gains, batch_dims, method, keys, generator);
}

#define FASTINIT_INSTANTIATE(on)                                                                   \
  template void orthogonal_<on>(const Tensor&, double, int64_t, std::string_view, Key, Generator); \
  template void orthogonal_many_<on>(at::TensorList, at::ArrayRef<double>, int64_t,                \
                                     std::string_view, Keys, Generator);
FASTINIT_INSTANTIATE(On::Device)
FASTINIT_INSTANTIATE(On::Meta)
#undef FASTINIT_INSTANTIATE

}  // namespace fastinit::ops
