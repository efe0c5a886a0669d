// Tensors whose conjugation or negation is still pending (x.conj(), x.conj().imag): filled in a
// plain tensor and copied. Torch's own fallback for them expects an operator to return what it
// writes.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <torch/library.h>

#include <vector>

namespace {

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor plain_like(const at::Tensor& self) { return at::empty(self.sizes(), self.options()); }

template <class Op, class... Args>
void fill_plain(const Op& op, const at::Tensor& self, Args... args) {
  const c10::AutoGradMode no_grad(false);
  const at::Tensor plain = plain_like(self);
  op.call(plain, args...);
  self.copy_(plain);
}

using Key = std::optional<int64_t>;
using Generator = std::optional<at::Generator>;

void uniform_(const at::Tensor& self, double a, double b, Key key, Generator generator) {
  static const auto op =
      find<void(const at::Tensor&, double, double, Key, Generator)>("fastinit::uniform_");
  fill_plain(op, self, a, b, key, generator);
}

void normal_(const at::Tensor& self, double mean, double std, Key key, Generator generator) {
  static const auto op =
      find<void(const at::Tensor&, double, double, Key, Generator)>("fastinit::normal_");
  fill_plain(op, self, mean, std, key, generator);
}

void trunc_normal_(const at::Tensor& self, double mean, double std, double a, double b, Key key,
                   Generator generator) {
  static const auto op =
      find<void(const at::Tensor&, double, double, double, double, Key, Generator)>(
          "fastinit::trunc_normal_");
  fill_plain(op, self, mean, std, a, b, key, generator);
}

void fill_many_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                at::IntArrayRef keys) {
  static const auto op =
      find<void(at::TensorList, at::IntArrayRef, at::ArrayRef<double>, at::IntArrayRef)>(
          "fastinit::fill_many_");
  const c10::AutoGradMode no_grad(false);
  std::vector<at::Tensor> plain;
  for (const at::Tensor& t : tensors)
    plain.push_back(t.is_conj() || t.is_neg() ? plain_like(t) : t);
  op.call(plain, plan, args, keys);
  for (size_t k = 0; k < plain.size(); ++k)
    if (!plain[k].is_same(tensors[k])) tensors[k].copy_(plain[k]);
}

void implement(torch::Library& m) {
  m.impl("uniform_", uniform_);
  m.impl("normal_", normal_);
  m.impl("trunc_normal_", trunc_normal_);
  m.impl("fill_many_", fill_many_);
}

}  // namespace

TORCH_LIBRARY_IMPL(fastinit, Conjugate, m) { implement(m); }
TORCH_LIBRARY_IMPL(fastinit, Negative, m) { implement(m); }
