// Operators as rows of tables: from a row come an operator's schema and its kernels for every
// dispatch key. What is not in a row exists nowhere, so no operator can be left to torch's own
// fallbacks, which expect an operator to return what it writes. tests/operators/test_registry.py asks the
// dispatcher.
#pragma once

#include <torch/library.h>

#include <string>
#include <vector>

namespace fastinit::ops {

using Make = torch::CppFunction (*)();

template <auto kernel>
torch::CppFunction make() {
  return torch::CppFunction(kernel);
}

struct Operator {
  std::string name;
  std::string arguments;
  bool draws;    // from a generator, unless it is given a key
  Make device;   // of every device that has a backend; null: only what is anywhere
  Make meta;     // of meta tensors
  Make nowhere;  // where the arguments show no device; or null
  std::string returns = "()";
};
using Operators = std::vector<Operator>;

void define(torch::Library& library, const Operators& operators);
void implement_on_device(torch::Library& library, const Operators& operators);
void implement_on_meta(torch::Library& library, const Operators& operators);
// For views whose conjugation or negation is still pending (lazy_views.cpp).
void implement_on_lazy_views(torch::Library& library, const Operators& operators);
// Nothing: initialisers are not recorded, wherever they are called. Left to itself, torch asks for the
// history of what requires grad, which views of `unbind` and `chunk` refuse after the first write.
void pass_autograd(torch::Library& library, const Operators& operators);
// Refusals.
void implement_on_batches(torch::Library& library, const Operators& operators);

// Registers the operators that the function `table` returns under torch.ops.<name>.
#define FASTINIT_LIBRARY(name, table)                                                            \
  TORCH_LIBRARY(name, m) { fastinit::ops::define(m, table()); }                                  \
  TORCH_LIBRARY_IMPL(name, CPU, m) { fastinit::ops::implement_on_device(m, table()); }           \
  FASTINIT_ON_CUDA(name, table)                                                                  \
  TORCH_LIBRARY_IMPL(name, Meta, m) { fastinit::ops::implement_on_meta(m, table()); }            \
  TORCH_LIBRARY_IMPL(name, Conjugate, m) { fastinit::ops::implement_on_lazy_views(m, table()); } \
  TORCH_LIBRARY_IMPL(name, Negative, m) { fastinit::ops::implement_on_lazy_views(m, table()); }  \
  TORCH_LIBRARY_IMPL(name, Autograd, m) { fastinit::ops::pass_autograd(m, table()); }            \
  TORCH_LIBRARY_IMPL(name, FuncTorchBatched, m) { fastinit::ops::implement_on_batches(m, table()); }
#if FASTINIT_CUDA
#define FASTINIT_ON_CUDA(name, table) \
  TORCH_LIBRARY_IMPL(name, CUDA, m) { fastinit::ops::implement_on_device(m, table()); }
#else
#define FASTINIT_ON_CUDA(name, table)
#endif

}  // namespace fastinit::ops
