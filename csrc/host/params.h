// Arguments of a distribution: whether they are valid, and the constants its transform reads.
// Decides the branch of a truncated normal and the clamping bounds of the type. docs/stream.md,
// sections 3 and 6. The floating-point environment is ours (host/fp_env.h).
#pragma once

#include <cmath>
#include <sstream>
#include <string>

#include "core/rounding.h"
#include "core/task.h"
#include "core/transforms.h"
#include "host/host_math.h"

namespace fastinit::host {

template <class Real>
TransformArgs<Real>& args_of(Transform& t);
template <>
inline TransformArgs<float>& args_of<float>(Transform& t) {
  return t.f32;
}
template <>
inline TransformArgs<double>& args_of<double>(Transform& t) {
  return t.f64;
}

// ---- what several share -------------------------------------------------------------------------

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

inline std::string not_finite(const char* argument, double value) {
  return text("argument '", argument, "' must be finite, but got ", value);
}

inline std::string out_of_range(const char* argument, double value, double max, const char* type) {
  return text("argument '", argument, "' is ", value, ", out of the range [", -max, ", ", max,
              "] of ", type);
}

// A fill with one value of the type.
inline void set_constant(Transform& t, double value) {
  const DType dtype = t.dtype;
  t.kind = Kind::Constant;
  if (dtype == DType::F64) {
    memcpy(t.pattern, &value, 8);
    return;
  }
  const float x = static_cast<float>(value);
  uint32_t bits = 0;
  switch (dtype) {
    case DType::F16:
      bits = round_small<ScalarF32, DType::F16>(x);
      break;
    case DType::BF16:
      bits = round_bf16<ScalarF32>(x);
      break;
    case DType::E4M3:
      bits = round_small<ScalarF32, DType::E4M3>(x);
      break;
    case DType::E5M2:
      bits = round_small<ScalarF32, DType::E5M2>(x);
      break;
    case DType::F32:
    case DType::F64:
    case DType::Word:
    case DType::Bytes:
      bits = bit_cast<uint32_t>(x);
      break;
  }
  memcpy(t.pattern, &bits, 4);  // little endian: the low bytes come first
}

// Sets lo and hi; false (and a constant fill) when at most one value is left.
template <class Real>
bool set_bounds(Transform& t, double lo, double hi, double otherwise) {
  if (!(lo < hi)) {
    set_constant(t, lo == hi ? lo : otherwise);
    return false;
  }
  args_of<Real>(t).lo = static_cast<Real>(lo);
  args_of<Real>(t).hi = static_cast<Real>(hi);
  return true;
}

// What a type can hold, and the type that its samples are computed in.
struct Limits {
  double max, widest;
  const char* type;  // its name, for messages
};

// ---- uniform ------------------------------------------------------------------------------------

// Why arguments are refused; empty if they are not.
inline std::string check_uniform(double a, double b, const Limits& limits) {
  if (!std::isfinite(a)) return not_finite("a", a);
  if (!std::isfinite(b)) return not_finite("b", b);
  if (!(a <= b)) return text("expects a <= b, but got a = ", a, " and b = ", b);
  if (std::fabs(a) > limits.max) return out_of_range("a", a, limits.max, limits.type);
  if (std::fabs(b) > limits.max) return out_of_range("b", b, limits.max, limits.type);
  if (b - a > limits.max)
    return text("expects b - a <= ", limits.max, " for ", limits.type, ", but got a = ", a,
                " and b = ", b);
  return {};
}

template <class Real>
void make_uniform(Transform& t, double a, double b) {
  t.kind = Kind::Uniform;
  const Format f = format_of(t.dtype);
  const double top = round_to(b, f);
  if (a == b) return set_constant(t, round_to(a, f));
  if (!set_bounds<Real>(t, ceil_to(a, f), next_down(top, f), round_to(a, f))) return;
  auto& args = args_of<Real>(t);
  const Real scale = static_cast<Real>(b - a), unit = scale * static_cast<Real>(0x1p-24);
  args.uniform = {scale, static_cast<Real>(a), unit};
  // The transform grows with the word, so its ends tell whether anything needs clamping.
  using L = std::conditional_t<sizeof(Real) == 8, ScalarF64, ScalarF32>;
  t.clamped = uniform<L>(args, 0, 0) < args.lo || uniform<L>(args, ~0u, ~0u) > args.hi;
}

// ---- normal -------------------------------------------------------------------------------------

inline std::string check_std(double std) {
  if (!std::isfinite(std)) return not_finite("std", std);
  if (!(std >= 0)) return text("expects std >= 0.0, but got std = ", std);
  return {};
}

inline std::string check_normal(double mean, double std, const Limits& limits) {
  if (!std::isfinite(mean)) return not_finite("mean", mean);
  if (const std::string wrong = check_std(std); !wrong.empty()) return wrong;
  if (std::fabs(mean) > limits.max) return out_of_range("mean", mean, limits.max, limits.type);
  // Samples reach 9.5 standard deviations, and their scale must stay finite on the way.
  const double most = std::fmin(limits.max, limits.widest / 16);
  if (std > most) return out_of_range("std", std, most, limits.type);
  return {};
}

template <class Real>
void make_normal(Transform& t, double mean, double std) {
  t.kind = Kind::Normal;
  const Format f = format_of(t.dtype);
  auto& args = args_of<Real>(t);
  args.lo = static_cast<Real>(-f.max);
  args.hi = static_cast<Real>(f.max);
  args.normal = {static_cast<Real>(mean), static_cast<Real>(std)};
  t.clamped = std::fabs(mean) + 10 * std > f.max;  // no radius reaches ten
}

// ---- truncated normal ---------------------------------------------------------------------------

inline std::string check_trunc_normal(double mean, double std, double a, double b,
                                      const Limits& limits) {
  const double most = limits.widest / 64;
  if (!std::isfinite(mean)) return not_finite("mean", mean);
  if (const std::string wrong = check_std(std); !wrong.empty()) return wrong;
  if (std::fabs(mean) > limits.widest)
    return out_of_range("mean", mean, limits.widest, limits.type);
  if (std > most) return out_of_range("std", std, most, limits.type);
  if (std::isnan(a)) return text("argument 'a' must not be nan");
  if (std::isnan(b)) return text("argument 'b' must not be nan");
  if (!(a <= b)) return text("expects a <= b, but got a = ", a, " and b = ", b);
  if (!(a <= limits.max && b >= -limits.max))
    return text("no value of ", limits.type, " lies in [a, b] = [", a, ", ", b, "]");
  return {};
}

// Taylor coefficients about u = 1/2 of the quantile of the density exp(-A t - B t^2) on [0, 1].
inline void narrow_coefficients(double A, double B, int degree, double* c) {
  constexpr int n = 19;
  const double M = 2 * B;
  double E[n];
  E[0] = 1;
  E[1] = -A;
  for (int k = 1; k + 1 < n; ++k) E[k + 1] = -(A * E[k] + M * E[k - 1]) / (k + 1);
  const auto integral = [&](double g) {
    double s = E[n - 1] / n;
    for (int k = n - 2; k >= 0; --k) s = E[k] / (k + 1) + g * s;
    return g * s;
  };
  const auto density = [&](double g) {
    double s = E[n - 1];
    for (int k = n - 2; k >= 0; --k) s = E[k] + g * s;
    return s;
  };
  const double K = integral(1);
  double g = 0.5;
  for (int step = 0; step < 4; ++step) g = g - (integral(g) - K * 0.5) / density(g);
  double F[kNarrowDegree64 + 1], D1[kNarrowDegree64 + 1], D2[kNarrowDegree64 + 1];
  c[0] = g;
  F[0] = 1 / density(g);
  for (int k = 0; k < degree; ++k) {
    c[k + 1] = K * F[k] / (k + 1);
    D1[k] = (k + 1) * c[k + 1];
    D2[k] = 0;
    for (int j = 0; j <= k; ++j) D2[k] += c[j] * D1[k - j];
    double sum = 0;
    for (int i = 0; i <= k; ++i) sum += (A * D1[i] + M * D2[i]) * F[k - i];
    F[k + 1] = sum / (k + 1);
  }
}

template <class Real>
void make_narrow(Transform& t, double a, double b, double alpha, double h) {
  constexpr bool wide = sizeof(Real) == 8;
  constexpr int degree = wide ? kNarrowDegree64 : kNarrowDegree32;
  double c[kNarrowDegree64 + 1] = {};
  narrow_coefficients(alpha * h, h * h / 2, degree, c);
  t.kind = Kind::Narrow;
  auto& p = args_of<Real>(t).narrow;
  for (int k = 0; k <= degree; ++k) p.c[k] = static_cast<Real>(c[k]);
  p.width = static_cast<Real>(b - a);
  p.a = static_cast<Real>(a);
}

// Q(alpha + h) / Q(alpha) for alpha >= 1.5, h >= 0; 0 below exp(-700), which reaches no result.
inline DoubleDouble tail_ratio(double alpha, double h) {
  const DoubleDouble exponent = h * (alpha + DoubleDouble(0.5 * h));
  if (!(exponent.hi < 700)) return 0;
  return exp(-exponent) * (hazard(alpha) / hazard(exact_sum(alpha, h)));
}

// What `Tail` and `Far` share.
template <class Real, class Args>
void set_tail_ratio(Args& p, double alpha, double h) {
  const DoubleDouble rho = tail_ratio(alpha, h);
  p.rho = static_cast<Real>(rho.hi);
  p.omega = static_cast<Real>((1 - rho).hi);
}

template <class Real>
void make_far(Transform& t, double near_end, double alpha, double h, double std) {
  if (alpha == kInf) {
    const auto& args = args_of<Real>(t);
    return set_constant(t, std < 0 ? args.hi : args.lo);
  }
  const DoubleDouble rest = hazard_excess(alpha), l = alpha + rest;
  t.kind = Kind::Far;
  auto& p = args_of<Real>(t).far;
  const bool wide = sizeof(Real) == 8;
  set_tail_ratio<Real>(p, alpha, h);
  p.c1 = static_cast<Real>((2 * (DoubleDouble(wide ? 1 : std) / l)).hi);
  p.c2 = static_cast<Real>((2 * (rest / l)).hi);
  p.a = static_cast<Real>(near_end);
  p.std = static_cast<Real>(std);
  p.alpha = static_cast<Real>(alpha);
  p.inv_alpha = static_cast<Real>(1 / alpha);
  const double y = 1 / (alpha * alpha);
  p.y0 = static_cast<Real>(y * horner<ScalarF64>(coef::kMills64, y));
  p.l = static_cast<Real>(l.hi);
  p.l1 = static_cast<Real>((l * rest).hi);
}

template <class Real>
void make_tail(Transform& t, double alpha, double h, double mean, double std) {
  t.kind = Kind::Tail;
  auto& p = args_of<Real>(t).tail;
  set_tail_ratio<Real>(p, alpha, h);
  p.lambda = static_cast<Real>(minus_log_upper_tail(alpha).hi);
  p.mean = static_cast<Real>(mean);
  p.std = static_cast<Real>(std);
}

template <class Real>
void make_central(Transform& t, double alpha, double beta, double mean, double std) {
  const Probabilities from_a = probabilities(-alpha), from_b = probabilities(beta);
  t.kind = Kind::Central;
  args_of<Real>(t).central = {static_cast<Real>(from_a.upper.hi),
                              static_cast<Real>(from_b.upper.hi),
                              static_cast<Real>((from_b.centred + from_a.centred).hi),
                              static_cast<Real>(-from_a.centred.hi),
                              static_cast<Real>(from_b.centred.hi),
                              static_cast<Real>(mean),
                              static_cast<Real>(std)};
}

template <class Real>
void make_trunc_normal(Transform& t, double mean, double std, double a, double b) {
  const Format f = format_of(t.dtype);
  const double lo = ceil_to(a, f), hi = floor_to(b, f);
  // A bound outside the type's range is no bound; an interval wholly outside it has no value.
  const bool any = lo <= hi && a <= f.max && b >= -f.max;
  if (std == 0) {
    const double m = mean < a ? a : mean > b ? b : mean;
    const double r = round_to(m, f);
    return set_constant(t, !any ? round_to(a, f) : r < lo ? lo : r > hi ? hi : r);
  }
  if (!set_bounds<Real>(t, lo, hi, round_to(a, f))) return;
  const double alpha = (a - mean) / std, beta = (b - mean) / std, h = (b - a) / std;
  const double reach = std::fmax(1.0, std::fmax(std::fabs(alpha), std::fabs(beta)));
  if (h * reach <= 0.25) return make_narrow<Real>(t, a, b, alpha, h);
  const bool mirrored = beta <= -1.5;
  const double near = mirrored ? -beta : alpha;
  const double signed_std = mirrored ? -std : std;
  args_of<Real>(t).flip = mirrored ? ~0u : 0u;
  if (near > 30) return make_far<Real>(t, mirrored ? b : a, near, h, signed_std);
  if (near >= 1.5) return make_tail<Real>(t, near, h, mean, signed_std);
  make_central<Real>(t, alpha, beta, mean, std);
}

// ---- by distribution ----------------------------------------------------------------------------

// Why arguments are refused; empty if they are not.
inline std::string check(Distribution distribution, DType dtype,
                         const double (&args)[kMaxArguments], const char* type) {
  const Limits limits{format_of(dtype).max, format_of(compute_dtype(dtype)).max, type};
  switch (distribution) {
    case Distribution::Constant:
    case Distribution::Words:
      return {};
    case Distribution::Uniform:
      return check_uniform(args[0], args[1], limits);
    case Distribution::Normal:
      return check_normal(args[0], args[1], limits);
    case Distribution::TruncNormal:
      return check_trunc_normal(args[0], args[1], args[2], args[3], limits);
  }
  return {};
}

// The transform of a distribution for a type.
inline Transform make_transform(Distribution distribution, DType dtype,
                                const double (&raw)[kMaxArguments]) {
  Transform t;
  memset(&t, 0, sizeof t);
  t.dtype = dtype;
  t.item_size = static_cast<uint8_t>(item_size(dtype));
  t.clamped = true;
  double args[kMaxArguments];
  for (int k = 0; k < kMaxArguments; ++k) args[k] = raw[k] + 0.0;  // -0.0 becomes +0.0
  const bool wide = dtype == DType::F64;
  switch (distribution) {
    case Distribution::Constant:
      t.kind = Kind::Constant;  // its bytes are torch's
      break;
    case Distribution::Words:
      t.kind = Kind::Words;
      break;
    case Distribution::Uniform:
      wide ? make_uniform<double>(t, args[0], args[1]) : make_uniform<float>(t, args[0], args[1]);
      break;
    case Distribution::Normal:
      wide ? make_normal<double>(t, args[0], args[1]) : make_normal<float>(t, args[0], args[1]);
      break;
    case Distribution::TruncNormal:
      wide ? make_trunc_normal<double>(t, args[0], args[1], args[2], args[3])
           : make_trunc_normal<float>(t, args[0], args[1], args[2], args[3]);
      break;
  }
  return t;
}

}  // namespace fastinit::host
