#include "torch/registry.h"

#include <ATen/core/enum_tag.h>

#include "torch/elementwise.h"
#include "torch/operators.h"

namespace fastinit::ops {
namespace {

const Operators& operators() {
  static const Operators table = [] {
    Operators all = sample_operators(std::make_index_sequence<kDistributionCount>());
    const Operators others{
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
        {"sparse_",
         "Tensor(a!) self, float sparsity, float std=0.01, *, int? key=None, "
         "Generator? generator=None",
         true, make<&sparse_<On::Device>>, make<&sparse_<On::Meta>>, nullptr},
        {"fill_shard_",
         "Tensor(a!) self, str distribution, float[] args, int[] full_size, int[] boxes, *, "
         "int? key=None, Generator? generator=None",
         true, make<&fill_shard_<On::Device>>, make<&fill_shard_<On::Meta>>, nullptr},
        {"orthogonal_shard_",
         "Tensor(a!) self, float gain, int[] full_size, int[] boxes, int batch_dims=0, "
         "str method='householder', *, int? key=None, Generator? generator=None",
         true, make<&orthogonal_shard_<On::Device>>, make<&orthogonal_shard_<On::Meta>>, nullptr},
        {"orthogonal_sums_",
         "Tensor(a!) self, int[] matrix, int number, int begin, int end, *, int key", false,
         make<&orthogonal_sums_<On::Device>>, make<&orthogonal_sums_<On::Meta>>, nullptr},
        {"orthogonal_reflect_", "Tensor(a!) self, float gain, int[] matrix, int number, *, int key",
         false, make<&orthogonal_reflect_<On::Device>>, make<&orthogonal_reflect_<On::Meta>>,
         nullptr},
        {"orthogonal_of_reflectors_",
         "Tensor(a!) self, Tensor reflectors, float gain, int[] full_size, int[] boxes, "
         "int batch_dims, int number, *, int key",
         false, make<&orthogonal_of_reflectors_<On::Device>>,
         make<&orthogonal_of_reflectors_<On::Meta>>, nullptr},
        {"sparse_shard_",
         "Tensor(a!) self, float sparsity, float std, int[] full_size, int[] boxes, *, "
         "int? key=None, Generator? generator=None",
         true, make<&sparse_shard_<On::Device>>, make<&sparse_shard_<On::Meta>>, nullptr},
    };
    all.insert(all.end(), others.begin(), others.end());
    return all;
  }();
  return table;
}

void refuse_batched(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, op.schema().name(),
                              ": not inside torch.vmap; call the function of fastinit, which knows "
                              "what is batched");
}

}  // namespace

void define(torch::Library& m, const Operators& operators) {
  for (const Operator& op : operators) {
    using at::Tag;
    const auto tags = op.draws
                          ? std::vector<Tag>{Tag::nondeterministic_seeded, Tag::pt2_compliant_tag}
                          : std::vector<Tag>{Tag::pt2_compliant_tag};
    m.def((op.name + "(" + op.arguments + ") -> " + op.returns).c_str(), tags);
    if (op.nowhere != nullptr)
      m.impl(op.name.c_str(),
             torch::dispatch(c10::DispatchKey::CompositeExplicitAutograd, op.nowhere()));
  }
}

void implement_on_device(torch::Library& m, const Operators& operators) {
  for (const Operator& op : operators)
    if (op.device != nullptr) m.impl(op.name.c_str(), op.device());
}

void implement_on_meta(torch::Library& m, const Operators& operators) {
  for (const Operator& op : operators)
    if (op.meta != nullptr) m.impl(op.name.c_str(), op.meta());
}

void pass_autograd(torch::Library& m, const Operators& operators) {
  for (const Operator& op : operators)
    m.impl(op.name.c_str(), torch::CppFunction::makeFallthrough());
}

void implement_on_batches(torch::Library& m, const Operators& operators) {
  for (const Operator& op : operators)
    if (op.device != nullptr)
      m.impl(op.name.c_str(), torch::CppFunction::makeFromBoxedFunction<&refuse_batched>());
}

FASTINIT_LIBRARY(fastinit, operators)

}  // namespace fastinit::ops
