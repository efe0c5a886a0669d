// The operators of the table of distributions (core/distributions.h), by one template.
#pragma once

#include <cstdio>
#include <utility>

#include "torch/fills.h"
#include "torch/registry.h"

namespace fastinit::ops {

template <size_t>
using Number = double;

// The kernel: one number per argument.
template <Distribution distribution, On on, size_t... k>
void elementwise_kernel(const at::Tensor& self, Number<k>... args, Key key, Generator generator) {
  fill(on, row_of(distribution).name, self, {distribution, {args...}}, key, generator);
}

// The arguments of the schema.
inline std::string schema_arguments(const DistributionRow& row) {
  std::string text = "Tensor(a!) self";
  for (int k = 0; k < row.argument_count; ++k) {
    char value[32];
    std::snprintf(value, sizeof value, "%#.17g", row.arguments[k].value);
    text += std::string(", float ") + row.arguments[k].name + "=" + value;
  }
  return text + ", *, int? key=None, Generator? generator=None";
}

template <Distribution distribution, size_t... k>
Operator elementwise_operator(std::index_sequence<k...>) {
  const DistributionRow& row = row_of(distribution);
  return {row.name,
          schema_arguments(row),
          true,
          make<&elementwise_kernel<distribution, On::Device, k...>>,
          make<&elementwise_kernel<distribution, On::Meta, k...>>,
          nullptr};
}

template <Distribution distribution>
Operator elementwise_operator() {
  constexpr size_t count = row_of(distribution).argument_count;
  return elementwise_operator<distribution>(std::make_index_sequence<count>());
}

// All whose elements are samples of a distribution. The constant is torch's fill_, and words are
// for tests (testing.cpp).
template <size_t... row>
Operators sample_operators(std::index_sequence<row...>) {
  Operators operators;
  const auto append = [&](auto code) {
    constexpr Distribution distribution = decltype(code)::value;
    constexpr Tensors tensors = row_of(distribution).tensors;
    if constexpr (tensors == Tensors::Real || tensors == Tensors::Complex)
      operators.push_back(elementwise_operator<distribution>());
  };
  (append(std::integral_constant<Distribution, static_cast<Distribution>(row)>{}), ...);
  return operators;
}

}  // namespace fastinit::ops
