// Tensors to fill with orthogonal matrices -> groups of matrices that are made together.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <vector>

namespace fastinit::ops {

struct OrthogonalRequest {
  const char* name;  // of the operator, for messages
  at::Tensor self;
  double gain;
  int64_t batch_dims;
  std::string_view method;
  bool given = false;  // the Gaussian is what `self` holds
  int64_t width = 0;   // reflections at once; 0: what is fastest
  int64_t first = 0;   // number of the first matrix in the batch that these are a part of
};

// Raises for what cannot be filled, or not so; of a shard the size of its whole counts. Reads no
// elements.
void check_request(const OrthogonalRequest& request,
                   std::optional<at::IntArrayRef> full_size = std::nullopt);

// The type that reflections are computed in.
at::ScalarType compute_type(at::ScalarType type);

// The write of results through layout and type. Small types saturate, as in every other fill.
void write_orthogonal(const at::Tensor& to, const at::Tensor& values, double gain);

// Fills tensors of one device that have elements, each from its key.
void make_orthogonal(const std::vector<OrthogonalRequest>& requests, at::IntArrayRef keys);

}  // namespace fastinit::ops
