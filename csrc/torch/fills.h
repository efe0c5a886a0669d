// Filling tensors with a distribution, whatever the device: what the operators are made of.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "torch/tasks.h"

namespace fastinit::ops {

using Key = std::optional<int64_t>;
using Generator = std::optional<at::Generator>;

// Where a kernel runs: a meta tensor gets the checks and a new version.
enum class On { Device, Meta };

// One tensor, from a key or from a generator. `name` is of the operator, here and below.
void fill(On on, const char* name, const at::Tensor& self, const Fill& what, const Key& key,
          const Generator& generator);

// Many, of any devices, as if one after the other; one key each.
void fill_all(const char* name, at::TensorList tensors, const std::vector<Fill>& fills,
              at::IntArrayRef keys);

// A key from a generator, or from the device's own.
int64_t key_from(const char* name, at::Device device, const Generator& generator);

inline void bump_version(const at::Tensor& self) {
  if (!self.is_inference()) self.unsafeGetTensorImpl()->bump_version();
}

}  // namespace fastinit::ops
