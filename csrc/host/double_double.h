// Real numbers as unevaluated sums of two doubles, good for about 100 bits (Dekker 1971). The
// constants of a fill are computed in these and rounded once, so that they are correctly rounded on
// every machine. Host only; the caller has set the floating-point environment (host/fp_env.h).
#pragma once

#include <cmath>
#include <cstdint>

#include "core/elementary.h"
#include "core/lanes_scalar.h"

namespace fastinit::host {

struct DoubleDouble {
  double hi, lo;  // hi is the sum rounded to double
  constexpr DoubleDouble(double high, double low = 0) : hi(high), lo(low) {}
};

// Exact a + b; the first for |a| >= |b| only.
inline DoubleDouble quick_sum(double a, double b) {
  const double s = a + b;
  return {s, b - (s - a)};
}
inline DoubleDouble exact_sum(double a, double b) {
  const double s = a + b, t = s - a;
  return {s, (a - (s - t)) + (b - t)};
}
inline DoubleDouble exact_product(double a, double b) {
  const double p = a * b;
  return {p, std::fma(a, b, -p)};
}

inline DoubleDouble operator-(DoubleDouble a) { return {-a.hi, -a.lo}; }
inline DoubleDouble operator+(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble high = exact_sum(a.hi, b.hi), low = exact_sum(a.lo, b.lo);
  const DoubleDouble sum = quick_sum(high.hi, high.lo + low.hi);
  return quick_sum(sum.hi, sum.lo + low.lo);
}
inline DoubleDouble operator+(DoubleDouble a, double b) {
  const DoubleDouble sum = exact_sum(a.hi, b);
  return quick_sum(sum.hi, sum.lo + a.lo);
}
inline DoubleDouble operator+(double a, DoubleDouble b) { return b + a; }
inline DoubleDouble operator-(DoubleDouble a, DoubleDouble b) { return a + -b; }
inline DoubleDouble operator-(DoubleDouble a, double b) { return a + -b; }
inline DoubleDouble operator-(double a, DoubleDouble b) { return -b + a; }
inline DoubleDouble operator*(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble p = exact_product(a.hi, b.hi);
  return quick_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}
inline DoubleDouble operator/(DoubleDouble a, DoubleDouble b) {
  const double q = a.hi / b.hi;
  if (!(std::fabs(q) > 0)) return q;  // zero or underflow
  const DoubleDouble p = exact_product(q, b.hi);
  const double rest = ((a.hi - p.hi) - p.lo) + (a.lo - q * b.lo);
  return quick_sum(q, rest / b.hi);
}

inline double power_of_two(int e) {  // 2^e, e in [-1022, 1023]
  return bit_cast<double>(static_cast<uint64_t>(e + 1023) << 52);
}

// exp(x) for x <= 0; 0 below exp(-700), which reaches no result.
inline DoubleDouble exp(DoubleDouble x) {
  if (!(x.hi > -700)) return 0;
  // log(2) in three parts, the first two short enough for exact products.
  constexpr double kLn2[] = {0x1.62e42fefa4p-1, -0x1.8432a1b0e2p-43, -0x1.8cff81a12a17ep-85};
  const double k = std::floor(x.hi * 1.4426950408889634 + 0.5);
  const DoubleDouble r = ((x - k * kLn2[0]) - k * kLn2[1]) - k * kLn2[2];
  // Taylor: 1 + r (1 + r/2 (1 + r/3 (...))), |r| < 0.35. The far terms need no more than double.
  double far = 1;
  for (int n = 28; n > 15; --n) far = 1 + far * (r.hi / n);
  DoubleDouble sum = far;
  for (int n = 15; n > 0; --n) sum = 1 + sum * (r / n);
  const double scale = power_of_two(static_cast<int>(k));
  return {sum.hi * scale, sum.lo * scale};
}

// log(x), x in [1, 2^1000): a Newton step of third order from the double-precision logarithm.
inline DoubleDouble log(DoubleDouble x) {
  const double near = log_positive<ScalarF64>(x.hi);
  const DoubleDouble d = x * exp(-near) - 1;
  return near + (d - 0.5 * d.hi * d.hi);
}

}  // namespace fastinit::host
