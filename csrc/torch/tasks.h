// Tensors and what they are filled with -> fill tasks: the checks every device shares.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "core/task.h"

namespace fastinit::ops {

// The shard of a full tensor that a tensor holds; empty spans when it is the whole.
struct Shard {
  at::IntArrayRef full_size, offset;
};

// What one tensor is filled with: the arguments of an operator, or a row of fill_many_'s plan.
struct Fill {
  Distribution distribution;
  double args[kMaxArguments];
  Shard shard = {};
};

// The type of a floating tensor's elements, or of the parts of a complex one's.
std::optional<DType> float_dtype(at::ScalarType type);

// In all of these `name` is of the operator, for messages.

// Raises what torch raises for a dtype, layout or argument this fill cannot honour. Reads no sizes,
// so that it serves fake and meta tensors.
void check_fill(const char* name, const at::Tensor& self, const Fill& fill);

// Appends the tasks that fill `self`: none if it is empty, several if it has very many dimensions.
void append_tasks(const char* name, std::vector<FillTask>& tasks, const at::Tensor& self,
                  const Fill& fill, uint64_t key);

// Raises where writing to the tensor is not allowed: to an inference tensor outside of inference
// mode, for instance.
void check_writable(const char* name, const at::Tensor& self);

// What is wrong with the storage of a tensor that has elements, if it was freed or never had memory
// for all of them: "has 0 bytes ..."; else nothing. torch's own kernels do not look.
std::string storage_fault(const at::Tensor& self);

// Raises where elements of a tensor have no memory, and what torch raises where two share it, also
// where torch does not look for it (at::assert_no_internal_overlap knows strides of zero only).
void check_memory(const char* name, const at::Tensor& self, bool may_overlap = false);

// For lists in which the dispatcher finds no kernel: raises unless there is nothing in them.
void check_nowhere(const char* name, at::TensorList tensors);

void check_one_source(const char* name, const std::optional<int64_t>& key,
                      const std::optional<at::Generator>& generator);

// ---- memory that tensors share ------------------------------------------------------------------

// Bytes that a tensor with elements lies in.
struct Span {
  const char *begin, *end;
};
Span span_of(const at::Tensor& self);

// Whether two of the tensors may share memory; then their order matters.
bool any_overlap(std::vector<Span> spans);

}  // namespace fastinit::ops
