// What operators above the fills share: the other operators as functions.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>

namespace fastinit::ops {

inline void bump_version(const at::Tensor& self) {
  if (!self.is_inference()) self.unsafeGetTensorImpl()->bump_version();
}

// fastinit::reserve_key and fastinit::fill_many_, of whatever device.
inline int64_t reserve_key_of(at::Device device, const std::optional<at::Generator>& generator) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastinit::reserve_key", "")
                             .typed<int64_t(at::Device, std::optional<at::Generator>)>();
  return op.call(device, generator);
}

inline void fill_many(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                      at::IntArrayRef keys) {
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("fastinit::fill_many_", "")
          .typed<void(at::TensorList, at::IntArrayRef, at::ArrayRef<double>, at::IntArrayRef)>();
  op.call(tensors, plan, args, keys);
}

}  // namespace fastinit::ops
