// What the constants of a fill are made of: normal tail probabilities, correctly rounded, and
// rounding to a type. Our own and not libm's, whose last bits differ between machines. Host only;
// the caller has set the floating-point environment (host/fp_env.h).
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/dtype.h"
#include "host/double_double.h"

namespace fastinit::host {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr DoubleDouble kSqrt2Pi = {0x1.40d931ff62706p+1, -0x1.a6a0d6f814637p-53};

// Where the power series of Phi hands over to the continued fraction of Q.
constexpr double kSeriesEnd = 4;

// sqrt(2 pi) phi(x).
inline DoubleDouble bell(DoubleDouble x) { return exp(x * x * -0.5); }

// (Phi(x) - 1/2) / phi(x) = x + x^3/3 + x^5/(3*5) + ..., |x| < kSeriesEnd: every term has one sign.
inline DoubleDouble central_series(DoubleDouble x) {
  const DoubleDouble square = x * x;
  double far = 1;  // the far terms need no more than double
  for (int k = 141; k > 81; k -= 2) far = 1 + far * (square.hi / k);
  DoubleDouble sum = far;
  for (int k = 81; k > 1; k -= 2) sum = 1 + sum * (square / k);
  return x * sum;
}

// phi(x)/Q(x) - x for x >= kSeriesEnd: Laplace's continued fraction 1/(x + 2/(x + 3/(x + ...))).
inline DoubleDouble hazard_excess(DoubleDouble x) {
  const int depth = x.hi < 6 ? 120 : x.hi < 12 ? 66 : 30;
  double far = 0;  // errors made deep down shrink on their way up
  for (int k = depth; k > depth / 3 + 4; --k) far = k / (x.hi + far);
  DoubleDouble rest = far;
  for (int k = depth / 3 + 4; k > 0; --k) rest = k / (x + rest);
  return rest;
}

// phi(x)/Q(x) for x >= 0.
inline DoubleDouble hazard(DoubleDouble x) {
  if (x.hi >= kSeriesEnd) return x + hazard_excess(x);
  return 1 / (0.5 * kSqrt2Pi / bell(x) - central_series(x));
}

struct Probabilities {
  DoubleDouble upper, centred;  // Q(x) and Phi(x) - 1/2
};
inline Probabilities probabilities(double x) {
  if (std::fabs(x) < kSeriesEnd) {
    const DoubleDouble centred = bell(x) / kSqrt2Pi * central_series(x);
    return {0.5 - centred, centred};
  }
  // Beyond 38 the tail is less than any double.
  const double far = std::fabs(x);
  const DoubleDouble tail = far > 40 ? 0 : bell(x) / (kSqrt2Pi * hazard(far));
  if (x < 0) return {1 - tail, tail - 0.5};
  return {tail, 0.5 - tail};
}

// -log Q(x) for x in [1.5, 30].
inline DoubleDouble minus_log_upper_tail(double x) {
  return exact_product(0.5 * x, x) + log(kSqrt2Pi * hazard(x));
}

// ---- rounding to a type -------------------------------------------------------------------------

// Spacing of the type's values in the binade of x (x finite, not zero).
inline double spacing(double x, const Format& f) {
  const int biased = static_cast<int>(bit_cast<uint64_t>(x) >> 52 & 0x7ff);
  int e = biased == 0 ? -1022 : biased - 1023;
  if (e < f.min_exponent) e = f.min_exponent;
  const int place = e - (f.precision - 1);
  return place >= -1022 ? power_of_two(place) : 0x1p-1022 * power_of_two(place + 1022);
}

// Nearest value of the type, ties to even, saturating.
inline double round_to(double x, const Format& f) {
  if (x >= f.max) return f.max;
  if (x <= -f.max) return -f.max;
  if (f.precision == 53 || x == 0) return x + 0.0;
  const double place = spacing(x, f);
  const double quotient = x / place;  // below 2^24 in magnitude, exact unless far below the spacing
  const double magic = 0x1.8p52;
  const double nearest = ((quotient + magic) - magic) * place;
  return nearest > f.max ? f.max : nearest < -f.max ? -f.max : nearest + 0.0;
}

inline double next_up(double x, const Format& f) {  // x a value of the type, below max
  if (x == 0) {
    const int place = f.min_exponent - (f.precision - 1);
    return place >= -1022 ? power_of_two(place) : 0x1p-1074;
  }
  const double place = spacing(x, f);
  const double smaller = x < 0 ? x + place / 2 : 0;
  // Towards zero from a power of two the spacing halves, unless it is already the subnormal one.
  if (x < 0 && place / 2 > 0 && spacing(smaller, f) < place) return smaller + 0.0;
  return x + place + 0.0;
}

inline double next_down(double x, const Format& f) { return -next_up(-x, f) + 0.0; }

// Least value of the type >= x and greatest <= x, saturating at +-max.
inline double ceil_to(double x, const Format& f) {
  const double r = round_to(x, f);
  return r < x && r < f.max ? next_up(r, f) : r;
}
inline double floor_to(double x, const Format& f) { return -ceil_to(-x, f) + 0.0; }

}  // namespace fastinit::host
