// Views whose conjugation or negation is still pending (x.conj(), x.conj().imag): an operator works
// on plain copies, which are then written back.
#include <ATen/core/List.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/GradMode.h>

#include "torch/registry.h"
#include "torch/tasks.h"
#include "torch/thread_pool.h"

namespace fastinit::ops {
namespace {

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

}  // namespace

void implement_on_lazy_views(torch::Library& m, const Operators& operators) {
  for (const Operator& op : operators)
    if (op.device != nullptr)
      m.impl(op.name.c_str(), torch::CppFunction::makeFromBoxedFunction<&fill_plain>());
}

}  // namespace fastinit::ops
