// Tensors to fill with orthogonal matrices -> groups of matrices that are made together.
#pragma once

#include <ATen/core/Tensor.h>

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
};

// Raises for what cannot be filled, or not so. Reads no elements.
void check_request(const OrthogonalRequest& request);

// Fills tensors of one device that have elements, each from its key.
void make_orthogonal(const std::vector<OrthogonalRequest>& requests, at::IntArrayRef keys);

}  // namespace fastinit::ops
