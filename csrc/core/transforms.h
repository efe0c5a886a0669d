// Words of the stream -> samples, before clamping and rounding. Each transform stands here once,
// for every lane type, device and precision. docs/stream.md, sections 4 to 6.
#pragma once

#include <cstdint>

#include "core/elementary.h"
#include "core/macros.h"
#include "core/task.h"

namespace fastinit {

// Whether unit is scale / 2^24 exactly, as for all but the tiniest scales.
FASTINIT_HD FASTINIT_INLINE bool has_exact_unit(const TransformArgs<float>& t) {
  return t.uniform.unit * 0x1p24f == t.uniform.scale;
}

// U(shift, shift + scale). `low` is read in double only, here and below. With `unit_exact` one
// multiplication less, for the same bits.
template <class L, bool unit_exact = false>
FASTINIT_HD FASTINIT_INLINE typename L::F uniform(const TransformArgs<typename L::Real>& t,
                                                  typename L::W w, typename L::W low) {
  typename L::F u;
  if constexpr (is_double<L>) {
    u = L::fma(L::word_value_unsigned(w), L::set(0x1p-32),
               L::mul(L::word_value(L::template word_shr<11>(low)), L::set(0x1p-53)));
  } else {
    (void)low;
    const auto n = L::word_value(L::template word_shr<8>(w));
    if constexpr (unit_exact) return L::fma(n, L::set(t.uniform.unit), L::set(t.uniform.shift));
    u = L::mul(n, L::set(0x1p-24f));
  }
  return L::fma(u, L::set(t.uniform.scale), L::set(t.uniform.shift));
}

// (w + 1/2) / 2^32 folded around 1: in [-1/2, 1/2], negative values standing for 1 + value. In
// float times a power of two if wanted.
template <class L, int factor = 1>
FASTINIT_HD FASTINIT_INLINE typename L::F signed_unit(typename L::W w, typename L::W low) {
  if constexpr (is_double<L>) {
    return L::fma(L::word_value(w), L::set(0x1p-32),
                  L::mul(L::add(L::word_value_unsigned(low), L::set(0.5)), L::set(0x1p-64)));
  } else {
    (void)low;
    return L::fma(L::word_value(w), L::set(factor * 0x1p-32f), L::set(factor * 0x1p-33f));
  }
}

// std times the radius of a pair of normal samples (Box and Muller 1958).
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F normal_radius(const TransformArgs<typename L::Real>& t,
                                                        typename L::W w, typename L::W low) {
  // -2 log x, in float of -2 x from the start.
  typename L::F square;
  if constexpr (is_double<L>) {
    const auto v = signed_unit<L>(w, low);
    const auto x = L::select(L::sign_of_value(v), L::add(v, L::set(1)), v);
    square = L::mul(L::set(-2), log_near_one<L>(x, v));
  } else {
    const auto v = signed_unit<L, -2>(w, low);
    const auto folded = L::select(L::sign_of_value(v), L::set(0), L::set(1));
    const auto x = L::fma(folded, L::set(-2), v);
    square = log_near_one<L, -2>(x, v);
  }
  return L::mul(L::sqrt(square), L::set(t.normal.std));
}

// The pair of samples at that radius.
template <class L>
FASTINIT_HD FASTINIT_INLINE void normal_point(const TransformArgs<typename L::Real>& t,
                                              typename L::F radius, typename L::W angle,
                                              typename L::W angle_low, typename L::F& first,
                                              typename L::F& second) {
  typename L::F c, s;
  cos_sin<L>(angle, angle_low, c, s);
  first = L::fma(radius, c, L::set(t.normal.mean));
  second = L::fma(radius, s, L::set(t.normal.mean));
}

// Two normal samples from a radius word and an angle word.
template <class L>
FASTINIT_HD FASTINIT_INLINE void normal_pair(const TransformArgs<typename L::Real>& t,
                                             typename L::W radius, typename L::W angle,
                                             typename L::W radius_low, typename L::W angle_low,
                                             typename L::F& first, typename L::F& second) {
  normal_point<L>(t, normal_radius<L>(t, radius, radius_low), angle, angle_low, first, second);
}

// Distance of u = (w + 1/2) / 2^32 from the nearer end of (0, 1): in (0, 1/2]. `up` when that is 1.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F nearer_end(typename L::W w, typename L::W low,
                                                     typename L::M& up) {
  const auto k = L::word_spread_sign(w);
  up = L::word_sign(w);
  return signed_unit<L>(L::word_xor(w, k), L::word_xor(low, k));
}

// Truncated normal on an interval so narrow that its quantile is a short Taylor series.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F trunc_normal_narrow(
    const TransformArgs<typename L::Real>& t, typename L::W w, typename L::W low) {
  const auto u = signed_unit<L>(L::word_xor(w, L::word_set(0x80000000u)), low);
  constexpr int degree = is_double<L> ? kNarrowDegree64 : kNarrowDegree32;
  auto g = L::set(t.narrow.c[degree]);
  for (int k = degree - 1; k >= 0; --k) g = L::fma(g, u, L::set(t.narrow.c[k]));
  return L::fma(g, L::set(t.narrow.width), L::set(t.narrow.a));
}

// A truncated normal whose interval reaches the middle: the probability from the nearer end of the
// interval, and from one half.
template <class L>
struct CentralPoint {
  typename L::F n, d;  // of the interval, in (0, 1/2]; of one half, signed
  typename L::M up;    // whether the upper end is the nearer one
};

template <class L>
FASTINIT_HD FASTINIT_INLINE CentralPoint<L> central_point(const TransformArgs<typename L::Real>& t,
                                                          typename L::W w, typename L::W low) {
  CentralPoint<L> at;
  at.n = nearer_end<L>(w, low, at.up);
  const auto signed_n = L::from_bits(L::ixor(L::bits(at.n), L::word_top(w)));  // -n when up
  at.d = L::fma(signed_n, L::set(t.central.d),
                L::select(at.up, L::set(t.central.h_b), L::set(t.central.h_a)));
  return at;
}

// Its standard quantile where that is near zero; `is_tail` where it is not.
template <class L>
FASTINIT_HD FASTINIT_INLINE Fraction<L> central_middle(const CentralPoint<L>& at,
                                                       typename L::M& is_tail) {
  using Real = typename L::Real;
  is_tail = L::greater(L::magnitude(at.d), L::set(static_cast<Real>(0.425)));
  const auto r = L::negative_fma(at.d, at.d, L::set(static_cast<Real>(0.180625)));
  if constexpr (is_double<L>)
    return {L::mul(at.d, horner<L>(coef::kA64, r)), horner<L>(coef::kB64, r)};
  else
    return {L::mul(at.d, horner<L>(coef::kA32, r)), horner<L>(coef::kB32, r)};
}

// Its standard quantile where that is in a tail.
template <class L>
FASTINIT_HD FASTINIT_INLINE Fraction<L> central_tail(const TransformArgs<typename L::Real>& t,
                                                     const CentralPoint<L>& at, typename L::W w) {
  const auto ad = L::magnitude(at.d);
  const auto from_end = L::fma(at.n, L::set(t.central.d),
                               L::select(at.up, L::set(t.central.q_b), L::set(t.central.p_a)));
  // Where d has the sign of the nearer end, the probability is known from that end.
  const auto sign = L::ixor(L::bits(at.d), L::bits(ad));
  const auto same_end = L::sign_of(L::ixor(sign, L::word_top(w)));
  const auto p =
      L::select(same_end, from_end, L::sub(L::set(static_cast<typename L::Real>(0.5)), ad));
  auto z = tail_quantile<L>(L::negate(log_positive<L>(p)));
  z.numerator = L::from_bits(L::ixor(L::bits(z.numerator), sign));
  return z;
}

template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F central_value(const TransformArgs<typename L::Real>& t,
                                                        typename L::F z) {
  return L::fma(z, L::set(t.central.std), L::set(t.central.mean));
}

template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F trunc_normal_central(
    const TransformArgs<typename L::Real>& t, typename L::W w, typename L::W low) {
  const auto at = central_point<L>(t, w, low);
  typename L::M is_tail;
  auto z = central_middle<L>(at, is_tail);
  if (L::any(is_tail)) {
    const auto y = central_tail<L>(t, at, w);
    z.numerator = L::select(is_tail, y.numerator, z.numerator);
    z.denominator = L::select(is_tail, y.denominator, z.denominator);
  }
  return central_value<L>(t, z.value());
}

// -log(1 - u (1 - rho)), accurate at both ends of u.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F tail_exponent(typename L::Real rho,
                                                        typename L::Real omega, typename L::W w,
                                                        typename L::W low) {
  typename L::M up;
  const auto n = nearer_end<L>(w, low, up);
  const auto rest = L::sub(L::set(1), n);
  const auto u = L::select(up, rest, n);
  const auto v = L::select(up, n, rest);
  const auto q = L::fma(v, L::set(omega), L::set(rho));
  return L::negate(log_near_one<L>(q, L::negate(L::mul(u, L::set(omega)))));
}

// Truncated normal in a tail: quantile of the log probability.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F trunc_normal_tail(
    const TransformArgs<typename L::Real>& t, typename L::W w, typename L::W low) {
  const auto flip = L::word_set(t.flip);
  const auto e =
      tail_exponent<L>(t.tail.rho, t.tail.omega, L::word_xor(w, flip), L::word_xor(low, flip));
  const auto z = tail_quantile<L>(L::add(L::set(t.tail.lambda), e)).value();
  return L::fma(z, L::set(t.tail.std), L::set(t.tail.mean));
}

// Truncated normal beyond 30 sigma: nearly exponential, as a displacement from the bound.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F trunc_normal_far(const TransformArgs<typename L::Real>& t,
                                                           typename L::W w, typename L::W low) {
  const auto flip = L::word_set(t.flip);
  const auto e =
      tail_exponent<L>(t.far.rho, t.far.omega, L::word_xor(w, flip), L::word_xor(low, flip));
  const auto root = L::sqrt(L::fma(L::set(t.far.c2), e, L::set(1)));
  auto d = L::div(L::mul(e, L::set(t.far.c1)), L::add(L::set(1), root));
  if constexpr (is_double<L>) {
    // The quadratic leaves a relative error near 1e-6; two steps on the exact log tail remove it.
    const auto alpha = L::set(t.far.alpha);
    for (int step = 0; step < 2; ++step) {
      const auto x = L::add(alpha, d);
      const auto y = L::div(L::set(1), L::mul(x, x));
      const auto mills = L::sub(L::set(t.far.y0), L::mul(y, horner<L>(coef::kMills64, y)));
      const auto logs =
          L::add(log_reduced<L>(L::set(0), L::mul(d, L::set(t.far.inv_alpha))), mills);
      const auto reached = L::fma(d, L::fma(L::set(0.5), d, alpha), logs);
      d = L::sub(d, L::div(L::sub(reached, e), L::fma(L::set(t.far.l1), d, L::set(t.far.l))));
    }
    return L::fma(d, L::set(t.far.std), L::set(t.far.a));
  } else {
    return L::add(d, L::set(t.far.a));
  }
}

// ---- by kind ------------------------------------------------------------------------------------

// One sample of a kind that makes an element of a word.
template <class L, Kind kind, bool unit_exact = false>
FASTINIT_HD FASTINIT_INLINE typename L::F sample(const TransformArgs<typename L::Real>& t,
                                                 typename L::W w, typename L::W low) {
  static_assert(kind != Kind::Constant && kind != Kind::Words && kind != Kind::Normal,
                "makes no element of a word");
  if constexpr (kind == Kind::Uniform)
    return uniform<L, unit_exact>(t, w, low);
  else if constexpr (kind == Kind::Narrow)
    return trunc_normal_narrow<L>(t, w, low);
  else if constexpr (kind == Kind::Central)
    return trunc_normal_central<L>(t, w, low);
  else if constexpr (kind == Kind::Tail)
    return trunc_normal_tail<L>(t, w, low);
  else if constexpr (kind == Kind::Far)
    return trunc_normal_far<L>(t, w, low);
}

// Elements 2k from `even` words and 2k + 1 from `odd` ones.
template <class L, Kind kind>
FASTINIT_HD FASTINIT_INLINE void sample_pair(const TransformArgs<typename L::Real>& t,
                                             typename L::W even, typename L::W odd,
                                             typename L::W even_low, typename L::W odd_low,
                                             typename L::F& first, typename L::F& second) {
  if constexpr (kind == Kind::Normal) {
    normal_pair<L>(t, even, odd, even_low, odd_low, first, second);
  } else {
    first = sample<L, kind>(t, even, even_low);
    second = sample<L, kind>(t, odd, odd_low);
  }
}

template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F clamp(const TransformArgs<typename L::Real>& t,
                                                typename L::F x) {
  return L::at_most(L::at_least(x, L::set(t.lo)), L::set(t.hi));
}

}  // namespace fastinit
