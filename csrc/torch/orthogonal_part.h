// Rows and columns of one orthogonal matrix without the rest, in memory of the narrower side squared
// and of the part alone. docs/orthogonal.md has the product of reflections in closed form,
// Q = (E - V S^-1 V1^H) D: S is a sum over the rows of V, taken some at a time, and a row of Q needs
// its row of V besides.
#pragma once

#include <ATen/core/Tensor.h>

#include "torch/orthogonal_groups.h"

namespace fastinit::ops {

class OrthogonalParts {
 public:
  // Of matrix `number` of the batch, of this size; its rows are the first dimension.
  OrthogonalParts(const OrthogonalRequest& request, at::IntArrayRef size, int64_t number,
                  int64_t key);

  // Writes the box at `offset`, as large as `part`.
  void write(const at::Tensor& part, at::IntArrayRef offset) const;

 private:
  // Draws a box of the Gaussian, as (its rows, its columns).
  at::Tensor draw(at::IntArrayRef size, at::IntArrayRef offset) const;
  // Rows begin ... end of the longer side, as (rows, narrower side), with zeros above the diagonal.
  at::Tensor trapezoid(int64_t begin, int64_t end) const;

  const char* name_;
  at::TensorOptions options_;
  at::IntArrayRef size_;
  int64_t number_, key_, rows_, cols_;
  double gain_;
  bool wide_;
  at::Tensor top_;       // V1: the first rows of V, as many as columns
  at::Tensor inverted_;  // S
  at::Tensor diagonal_;  // of D
};

}  // namespace fastinit::ops
