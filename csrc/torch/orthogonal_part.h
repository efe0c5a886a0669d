// Rows and columns of one orthogonal matrix without the rest, in memory of the narrower side squared
// and of the part alone. docs/orthogonal.md has the product of reflections in closed form,
// Q = (E - V S^-1 V1^H) D: S is a sum over the rows of V, taken some at a time, by one process or by
// several, and a row of Q needs its row of V besides.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "torch/orthogonal_groups.h"

namespace fastinit::ops {

// What all parts of a matrix have in common, n being its narrower side: (n + 2, n) in the type that
// is computed in. At first sums over the rows of the Gaussian, trapezoidal: products of its columns,
// of which the upper triangle counts, and the squares of their lengths, each as two numbers that
// make up a double. Then, of the reflectors: S, the diagonal of V, and that of D.
class OrthogonalParts {
 public:
  // Of matrix `number` of a batch, of this size; its rows are the first dimension.
  OrthogonalParts(const char* name, const at::Tensor& common, at::IntArrayRef size, int64_t number,
                  int64_t key);

  // Adds the rows begin ... end of the longer side to the sums.
  void add(int64_t begin, int64_t end) const;
  // Turns sums over all rows into reflectors.
  void reflect(double gain) const;
  // Writes the box at `offset`, as large as `part`.
  void write(const at::Tensor& part, at::IntArrayRef offset, double gain) const;

 private:
  // Rows begin ... end of the longer side, as (rows, narrower side), with zeros above the diagonal.
  at::Tensor trapezoid(int64_t begin, int64_t end) const;
  // The Gaussian's rows of V that have these numbers -> V's.
  at::Tensor vectors(const at::Tensor& gaussian, const at::Tensor& numbers) const;
  // The rows of V that a box needs, with their numbers on the longer side.
  at::Tensor vectors_of(at::IntArrayRef size, at::IntArrayRef offset,
                        const at::Tensor& numbers) const;
  // Some of the first rows of V, by their numbers.
  at::Tensor first_vectors(const at::Tensor& numbers) const;
  // `solved`: S^-1 V1^H in the columns that the part needs, if it is not to be made row by row.
  void write(const at::Tensor& part, std::vector<int64_t> offset, const at::Tensor& across,
             const at::Tensor& solved, double gain) const;
  at::Tensor numbers_along(at::IntArrayRef size, at::IntArrayRef offset, bool longer) const;

  const char* name_;
  at::Tensor s_, diagonal_, scale_;  // of `common`
  at::IntArrayRef size_;
  int64_t number_, key_, rows_, cols_, longer_, narrower_;
  bool wide_;
};

// The memory for it.
at::Tensor common_of(at::IntArrayRef size, const at::TensorOptions& options);

}  // namespace fastinit::ops
