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

// Small matrices are reflected by a few vectors at a time: I - V S^-1 V^T, S upper triangular.
constexpr int kReflections = 4;

template <class Real>
struct ReflectionBlock {
  Real inverse[kReflections][kReflections];  // of S
  Real diagonal[kReflections];               // the block's columns of the identity are scaled by it
  Real own[kReflections][kReflections];      // those columns of Q are the scaled ones - V own
};

// Makes reflectors of `width` columns of a Gaussian: `top` holds their first rows, kReflections
// elements each, of which the diagonal changes, and `dot` their products with each other, of which
// the upper triangle is used (and changed).
template <class Real>
FASTINIT_HD FASTINIT_INLINE void make_reflection_block(ReflectionBlock<Real>& block, Real* top,
                                                       double (&dot)[kReflections][kReflections],
                                                       int width, double gain) {
  double inverse[kReflections][kReflections] = {};
  double diagonal[kReflections] = {};
  FASTINIT_UNROLL
  for (int s = 0; s < kReflections; ++s) {
    if (s >= width) continue;
    Real* const row = top + s * kReflections;
    const Real x1 = row[s];
    const auto reflector = make_reflector(x1, dot[s][s]);
    row[s] = reflector.first;
    diagonal[s] = -reflector.sign * gain;
    // The new first element changes the products with the vectors before it.
    const double more = static_cast<double>(reflector.first) - static_cast<double>(x1);
    inverse[s][s] = 1.0 / reflector.half_square;
    FASTINIT_UNROLL
    for (int t = s - 1; t >= 0; --t) {
      dot[t][s] += static_cast<double>(row[t]) * more;
      double sum = 0;
      FASTINIT_UNROLL
      for (int u = t + 1; u <= s; ++u) sum += dot[t][u] * inverse[u][s];
      inverse[t][s] = -sum * inverse[t][t];
    }
  }
  FASTINIT_UNROLL
  for (int s = 0; s < kReflections; ++s) {
    block.diagonal[s] = static_cast<Real>(diagonal[s]);
    FASTINIT_UNROLL
    for (int t = 0; t < kReflections; ++t) {
      block.inverse[s][t] = static_cast<Real>(inverse[s][t]);
      Real own = 0;
      FASTINIT_UNROLL
      for (int u = s; u <= t; ++u)
        own += static_cast<Real>(inverse[s][u]) * top[t * kReflections + u] *
               static_cast<Real>(diagonal[t]);
      block.own[s][t] = own;
    }
  }
}

}  // namespace fastinit
