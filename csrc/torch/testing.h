// What only tests ask for (testing.cpp).
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace fastinit::ops {

// How many threads wrote something in the last fill on the CPU.
int last_fill_threads();

// In which order fill_many_ fills tensors of one device: those of a wave at once.
std::vector<int64_t> waves_of(at::TensorList tensors);

}  // namespace fastinit::ops
