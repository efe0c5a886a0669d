// All operators in one table: from it come their schemas and their kernels for every dispatch key.
// What is not in a row exists nowhere, so no operator can be left to torch's own fallbacks, which
// expect an operator to return what it writes. tests/operators/test_registry.py asks the dispatcher.
#include "torch/registry.h"

#include <ATen/core/List.h>
#include <ATen/core/enum_tag.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/GradMode.h>

#include <string>
#include <vector>

#include "torch/operators.h"
#include "torch/tasks.h"
#include "torch/thread_pool.h"

namespace fastinit::ops {
namespace {

using Make = torch::CppFunction (*)();

template <auto kernel>
torch::CppFunction make() {
  return torch::CppFunction(kernel);
}

struct Operator {
  const char* name;
  const char* arguments;
  bool draws;    // from a generator, unless it is given a key
  Make device;   // of every device that has a backend; null: only what is anywhere
  Make meta;     // of meta tensors
  Make nowhere;  // where the arguments show no device; or null
  const char* returns = "()";
};

const std::vector<Operator>& operators() {
  static const std::vector<Operator> table{
      {"uniform_",
       "Tensor(a!) self, float a=0., float b=1., *, int? key=None, Generator? generator=None", true,
       make<&uniform_<On::Device>>, make<&uniform_<On::Meta>>, nullptr},
      {"normal_",
       "Tensor(a!) self, float mean=0., float std=1., *, int? key=None, Generator? generator=None",
       true, make<&normal_<On::Device>>, make<&normal_<On::Meta>>, nullptr},
      {"trunc_normal_",
       "Tensor(a!) self, float mean=0., float std=1., float a=-2., float b=2., *, int? key=None, "
       "Generator? generator=None",
       true, make<&trunc_normal_<On::Device>>, make<&trunc_normal_<On::Meta>>, nullptr},
      {"random_words_", "Tensor(a!) self, *, int? key=None, Generator? generator=None", true,
       make<&random_words_<On::Device>>, make<&random_words_<On::Meta>>, nullptr},
      {"fill_many_", "Tensor(a!)[] tensors, int[] plan, float[] args, int[] keys", false,
       make<&fill_many_>, make<&fill_many_meta_>, make<&fill_many_nowhere_>},
      {"reserve_key", "Device device, Generator? generator=None", true, nullptr, nullptr,
       make<&reserve_key>, "int"},
      {"orthogonal_",
       "Tensor(a!) self, float gain=1., int batch_dims=0, str method='householder', *, "
       "int? key=None, Generator? generator=None",
       true, make<&orthogonal_<On::Device>>, make<&orthogonal_<On::Meta>>, nullptr},
      {"orthogonal_many_",
       "Tensor(a!)[] tensors, float[] gains, int batch_dims=0, str method='householder', *, "
       "int[]? keys=None, Generator? generator=None",
       true, make<&orthogonal_many_<On::Device>>, make<&orthogonal_many_<On::Meta>>,
       make<&orthogonal_many_nowhere_>},
      {"orthogonal_from_",
       "Tensor(a!) self, float gain=1., int batch_dims=0, str method='householder', int width=0",
       false, make<&orthogonal_from_<On::Device>>, make<&orthogonal_from_<On::Meta>>, nullptr},
      {"sparse_",
       "Tensor(a!) self, float sparsity, float std=0.01, *, int? key=None, "
       "Generator? generator=None",
       true, make<&sparse_<On::Device>>, make<&sparse_<On::Meta>>, nullptr},
      {"zero_smallest_", "Tensor(a!) self, int count, int key", false,
       make<&zero_smallest_<On::Device>>, make<&zero_smallest_<On::Meta>>, nullptr},
  };
  return table;
}

void define(torch::Library& m) {
  for (const Operator& op : operators()) {
    using at::Tag;
    const auto tags = op.draws
                          ? std::vector<Tag>{Tag::nondeterministic_seeded, Tag::pt2_compliant_tag}
                          : std::vector<Tag>{Tag::pt2_compliant_tag};
    const std::string schema = std::string(op.name) + "(" + op.arguments + ") -> " + op.returns;
    m.def(schema.c_str(), tags);
    if (op.nowhere != nullptr)
      m.impl(op.name, torch::dispatch(c10::DispatchKey::CompositeExplicitAutograd, op.nowhere()));
  }
}

// ---- views whose conjugation or negation is still pending (x.conj(), x.conj().imag) -------------

bool is_lazy(const at::Tensor& t) { return t.is_conj() || t.is_neg(); }

bool has_memory(const at::Tensor& t) {
  return !t.key_set().has_backend(c10::BackendComponent::MetaBit) && t.numel() > 0;
}

bool share_memory(const at::Tensor& a, const at::Tensor& b) {
  return has_memory(a) && has_memory(b) && any_overlap({span_of(a), span_of(b)});
}

// Tensors among an operator's arguments, and what it works on in their place. A copy has the sizes
// and strides of its tensor, so that the operator's kernel refuses what it would refuse.
class PlainCopies {
 public:
  explicit PlainCopies(const char* name) : name_(name) {}

  at::Tensor plain(const at::Tensor& t) {
    check_writable(name_, t);
    const at::Tensor copy = at::empty_strided_symint(t.sym_sizes(), t.sym_strides(), t.options());
    copies_.push_back({once(t), once(copy)});
    copies_.back().plain.copy_(copies_.back().lazy);
    return copy;
  }

  // Tensors of a list may share memory, and are written in order: those that share it with a lazy
  // one are copied, too.
  c10::List<at::Tensor> plain_list(const c10::List<at::Tensor>& list) {
    const auto shares = [&](const at::Tensor& t) {
      for (const at::Tensor& other : list)
        if (is_lazy(other) && share_memory(other, t)) return true;
      return false;
    };
    c10::List<at::Tensor> result;
    for (const at::Tensor& t : list) result.push_back(is_lazy(t) || shares(t) ? plain(t) : t);
    return result;
  }

  void write_back() const {
    for (const Pair& pair : copies_) pair.lazy.copy_(pair.plain);
  }

 private:
  struct Pair {
    at::Tensor lazy, plain;
  };

  // Without what an expanded tensor repeats, which ATen does not write.
  static at::Tensor once(at::Tensor t) {
    for (int64_t k = 0; k < t.dim(); ++k)
      if (t.sym_stride(k) == 0 && t.sym_size(k) > 1) t = t.narrow(k, 0, 1);
    return t;
  }

  const char* name_;
  std::vector<Pair> copies_;
};

void fill_plain(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::AutoGradMode no_grad(false);
  const SerialAfterFork serial;  // for the copies
  const std::string name = op.schema().name();
  PlainCopies copies(name.c_str() + name.find("::") + 2);
  const size_t count = op.schema().arguments().size();
  for (size_t k = stack->size() - count; k < stack->size(); ++k) {
    c10::IValue& value = (*stack)[k];
    if (value.isTensor() && is_lazy(value.toTensor()))
      value = copies.plain(value.toTensor());
    else if (value.isTensorList())
      value = copies.plain_list(value.toTensorList());
  }
  op.callBoxed(stack);
  copies.write_back();
}

// ---- refusals -----------------------------------------------------------------------------------

void refuse_batched(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, op.schema().name(),
                              ": not inside torch.vmap; call the function of fastinit, which knows "
                              "what is batched");
}

// Registers one boxed function for every operator that writes tensors.
template <void (*function)(const c10::OperatorHandle&, torch::jit::Stack*)>
void implement_boxed(torch::Library& m) {
  for (const Operator& op : operators())
    if (op.device != nullptr)
      m.impl(op.name, torch::CppFunction::makeFromBoxedFunction<function>());
}

}  // namespace

void implement_on_device(torch::Library& m) {
  for (const Operator& op : operators())
    if (op.device != nullptr) m.impl(op.name, op.device());
}

}  // namespace fastinit::ops

TORCH_LIBRARY(fastinit, m) { fastinit::ops::define(m); }

TORCH_LIBRARY_IMPL(fastinit, CPU, m) { fastinit::ops::implement_on_device(m); }

TORCH_LIBRARY_IMPL(fastinit, Meta, m) {
  for (const auto& op : fastinit::ops::operators())
    if (op.meta != nullptr) m.impl(op.name, op.meta());
}

TORCH_LIBRARY_IMPL(fastinit, Conjugate, m) {
  fastinit::ops::implement_boxed<&fastinit::ops::fill_plain>(m);
}

TORCH_LIBRARY_IMPL(fastinit, Negative, m) {
  fastinit::ops::implement_boxed<&fastinit::ops::fill_plain>(m);
}

TORCH_LIBRARY_IMPL(fastinit, FuncTorchBatched, m) {
  fastinit::ops::implement_boxed<&fastinit::ops::refuse_batched>(m);
}
