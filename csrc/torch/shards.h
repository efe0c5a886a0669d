// Tensors that hold parts of a larger one: its boxes, each somewhere in the tensor's memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "torch/tasks.h"

namespace fastinit::ops {

// A box of the full tensor, and the view of the shard that holds it.
struct Box {
  at::Tensor part;
  at::IntArrayRef offset;  // in the full tensor
};

// Reads what the operators on shards take: for every box its place in the shard, its size and its
// offset in the full tensor, one number per dimension each. Boxes without elements are left out.
// Raises unless the boxes lie in both and share no memory, and the shard has some. `name` is for messages.
std::vector<Box> boxes_of(const char* name, const at::Tensor& self, at::IntArrayRef full_size,
                          at::IntArrayRef boxes);

// Whether the full tensor has elements, which is when a key is drawn: on every rank or on none.
bool has_elements(at::IntArrayRef full_size);

}  // namespace fastinit::ops
