// What operators above the fills share: the other operators as functions, and the thread pool.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>

#include "cpu/executor.h"

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

inline cpu::ThreadPool torch_pool() {
  const auto run = [](int workers, void (*body)(void*), void* context) {
    at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) body(context);
    });
  };
  return {at::in_parallel_region() ? 1 : at::get_num_threads(), run};
}

}  // namespace fastinit::ops
