// Orthogonal matrices from Gaussian ones by matrix products, on any device that ATen knows.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace fastinit::ops {

// Writes the Gaussian's rows and columns from `k` on into `panel`: either the first columns of
// what is there, (matrices, rows - k, width), or its first rows, (matrices, width, cols - k).
using Draw = std::function<void(const at::Tensor& panel, int64_t k)>;

// Fills (matrices, rows, cols) with gain times the product of the reflections that would
// triangulate the Gaussian. Works in place: any strides that a matrix product writes directly will
// do. `panel_width` reflections are applied at once; the memory of panels and products is in
// proportion.
void householder(const at::Tensor& out, double gain, int64_t panel_width, const Draw& draw);

// How many it should be. `frugal` asks for narrower panels, where they are large beside the matrix.
int64_t panel_width(const at::Tensor& out, bool frugal);

// Reflections made of columns of a Gaussian.
struct Reflectors {
  at::Tensor half_square;  // |v|^2 / 2
  at::Tensor diagonal;     // what the columns of the identity are multiplied by
};

// make_reflector of core/reflector.h: turns the first elements of columns, of these lengths (in
// double), into those of v.
Reflectors make_reflectors(const at::Tensor& first, const at::Tensor& length, double gain);

// The same distribution the literal way: Q of the Gaussian's QR factorisation, its phases fixed.
void qr(const at::Tensor& out, double gain, const Draw& draw);

}  // namespace fastinit::ops
