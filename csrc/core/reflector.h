// A Householder reflection drawn directly: column x of a Gaussian matrix -> v with
// (I - 2 v v^T / |v|^2) x = -sign |x| e1 (Stewart 1980). docs/orthogonal.md.
#pragma once

#include <cmath>

#include "core/lanes_scalar.h"
#include "core/macros.h"

namespace fastinit {

// Columns shorter than this count as zero: their squares would underflow. No draw is so short.
template <class Real>
struct Negligible;
template <>
struct Negligible<float> {
  static constexpr double length = 1e-18;
};
template <>
struct Negligible<double> {
  static constexpr double length = 1e-150;
};

template <class Real>
struct Reflector {
  Real first;          // v differs from x in its first element alone
  double half_square;  // |v|^2 / 2, of v as it is rounded
  double sign;         // of x1 by its sign bit; the column of Q is multiplied by its negative
};

// From the first element of x and |x|^2, which decides the accuracy of the whole: in double.
template <class Real>
FASTINIT_HD FASTINIT_INLINE Reflector<Real> make_reflector(Real x1, double square) {
  using L = ScalarF64;
  const double length = L::sqrt(square);
  if (!(length >= Negligible<Real>::length)) return {Real(1), 0.5, 1.0};
  const double x = static_cast<double>(x1);
  const double sign = L::sign_of_value(x) ? -1.0 : 1.0;
  const Real first = static_cast<Real>(L::fma(sign, length, x));
  const double v = static_cast<double>(first);
  return {first, 0.5 * (square + (v * v - x * x)), sign};
}

}  // namespace fastinit
