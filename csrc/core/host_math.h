// Double-precision functions for the constants of a fill: exponential, normal tail, rounding to a
// type. Our own and not libm's, whose last bits differ between machines. Host only; the caller has
// set the floating-point environment (cpu/fp_env.h).
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/elementary.h"
#include "core/lanes_scalar.h"
#include "core/task.h"

namespace fastinit::host {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kInvSqrt2Pi = 0x1.9884533d43651p-2;  // 1 / sqrt(2 pi)
constexpr double kLogSqrt2Pi = 0x1.d67f1c864beb5p-1;  // log(sqrt(2 pi))

inline double log(double x) { return log_unit<ScalarF64>(x); }

inline double power_of_two(int e) {  // 2^e, e in [-1022, 1023]
  return bit_cast<double>(static_cast<uint64_t>(e + 1023) << 52);
}

// exp(x) - 1 for |x| <= 0.35 by its Taylor series.
inline double expm1_small(double x) {
  double p = 0;
  for (int k = 16; k >= 1; --k) p = (1 + p) * (x / k);
  return p;
}

inline double exp(double x) {  // x <= 0
  if (x < -746) return 0;
  const double k = std::floor(x * 1.4426950408889634 + 0.5);
  const double r = (x - k * coef::kLn2Hi) - k * coef::kLn2Lo;
  const int e = static_cast<int>(k);
  // In two factors, since the result may be subnormal.
  return (1 + expm1_small(r)) * power_of_two(e / 2) * power_of_two(e - e / 2);
}

inline double expm1(double x) {  // x <= 0
  return x > -0.35 ? expm1_small(x) : exp(x) - 1;
}

// What follows the leading x in Laplace's continued fraction of 1 / R(x), R(x) = Q(x) / phi(x):
// 1/(x + 2/(x + 3/(x + ...))). Then 1 / R = x + this. For x >= 1.5.
inline double mills_rest(double x) {
  double rest = 0;
  for (int k = x < 3 ? 250 : x < 8 ? 70 : 25; k >= 1; --k) rest = k / (x + rest);
  return rest;
}

// Phi(x) - 1/2 = phi(x) (x + x^3/3 + x^5/(3*5) + ...): every term has one sign.
inline double central_probability(double x) {
  double term = x, sum = x;
  for (int k = 3; k < 120; k += 2) {
    term *= x * x / k;
    sum += term;
  }
  return exp(-0.5 * x * x) * kInvSqrt2Pi * sum;
}

// Q(x) = 1 - Phi(x).
inline double upper_tail(double x) {
  if (x >= 40) return 0;
  if (x >= 1.5) return exp(-0.5 * x * x) * kInvSqrt2Pi / (x + mills_rest(x));
  if (x > -1.5) return 0.5 - central_probability(x);
  return x <= -40 ? 1 : 1 - upper_tail(-x);
}

// Phi(x) - 1/2.
inline double centred_cdf(double x) {
  if (std::fabs(x) < 1.5) return central_probability(x);
  return x > 0 ? 0.5 - upper_tail(x) : upper_tail(-x) - 0.5;
}

// -log Q(x), x >= 1.5.
inline double minus_log_upper_tail(double x) {
  return (0.5 * x * x + kLogSqrt2Pi) + log(x + mills_rest(x));
}

// ---- rounding to a type -------------------------------------------------------------------------

struct Format {
  int precision;     // significand bits, the leading one included
  int min_exponent;  // of the smallest normal number
  double max;        // largest finite value
};

inline Format format_of(DType dtype) {
  switch (dtype) {
    case DType::F64:
      return {53, -1022, std::numeric_limits<double>::max()};
    case DType::F16:
      return {11, -14, 65504.0};
    case DType::BF16:
      return {8, -126, 0x1.fep+127};
    case DType::E4M3:
      return {4, -6, 448.0};
    case DType::E5M2:
      return {3, -14, 57344.0};
    default:
      return {24, -126, 0x1.fffffep+127};
  }
}

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
