// log, sine and cosine, normal quantile: built from + x / fma sqrt and integer operations only, so
// that every lane type and device returns the same bits. docs/stream.md, sections 5 and 6.
//
// Templates over a lane type (core/lanes_scalar.h names its operations). A translation unit for one
// processor capability includes this inside its target region.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/coefficients.h"
#include "core/macros.h"

namespace fastinit {

template <class L>
constexpr bool is_double = std::is_same<typename L::Real, double>::value;

// Horner's rule, constant term first.
template <class L, int n>
FASTINIT_HD FASTINIT_INLINE typename L::F horner(const typename L::Real (&c)[n], typename L::F x) {
  typename L::F p = L::set(c[n - 1]);
#if defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 20
#endif
  for (int k = n - 2; k >= 0; --k) p = L::fma(p, x, L::set(c[k]));
  return p;
}

// factor * log(2^e (1 + f)) for f in [sqrt(1/2) - 1, sqrt(2) - 1]; f comes times factor. In float e
// comes times 2^23, in place, and the factor may be any power of two, negative ones too: the same
// bits as a multiplication afterwards, for it is exact.
template <class L, int factor = 1>
FASTINIT_HD FASTINIT_INLINE typename L::F log_reduced(typename L::F e, typename L::F f) {
  if constexpr (is_double<L>) {
    static_assert(factor == 1, "in float only");
    const auto s = L::div(f, L::add(f, L::set(2.0)));
    const auto z = L::mul(s, s);
    const auto r = L::mul(z, horner<L>(coef::kLog64, z));
    const auto k = L::mul(L::set(0.5), L::mul(f, f));
    const auto low = L::fma(s, L::add(k, r), L::mul(e, L::set(coef::kLn2Lo)));
    return L::sub(L::mul(e, L::set(coef::kLn2Hi)), L::sub(L::sub(k, low), f));
  } else {
    // Pairs of terms first: a chain of four multiply-adds where Horner's rule has seven.
    const auto& c = coef::kLog32;
    constexpr float d = 1.0f / factor, d2 = d * d, d4 = d2 * d2;
    const auto f2 = L::mul(f, f);
    const auto p01 = L::fma(L::set(c[1] * d2), f, L::set(c[0] * d));
    const auto p23 = L::fma(L::set(c[3] * d4), f, L::set(c[2] * (d2 * d)));
    const auto p45 = L::fma(L::set(c[5] * (d4 * d2)), f, L::set(c[4] * (d4 * d)));
    const auto c6 = L::set(c[6] * (d4 * d2 * d));
    const auto p = L::fma(L::fma(L::fma(c6, f2, p45), f2, p23), f2, p01);
    return L::fma(e, L::set(factor * coef::kLn2 * 0x1p-23f), L::fma(f2, p, f));
  }
}

// A positive normal number as 2^e m, m in [sqrt(1/2), sqrt(2)). The number and m are times factor: 1,
// or in float -2.
template <class L>
struct Reduced {
  typename L::I h;  // whose exponent_part is e, negative where the number is less than m
  typename L::F m;
};

template <class L, int factor = 1>
FASTINIT_HD FASTINIT_INLINE Reduced<L> reduce(typename L::F x) {
  static_assert(factor == 1 || factor == -2, "bits of factor * sqrt(1/2)");
  const auto i = L::bits(x);
  typename L::I h;
  if constexpr (is_double<L>)
    h = L::isub(i, L::iset(0x3FE6A09E667F3BCDull));
  else
    h = L::isub(i, L::iset(factor == 1 ? 0x3F3504F3u : 0xBFB504F3u));
  return {h, L::from_bits(L::isub(i, L::exponent_part(h)))};
}

// log(x) of a positive normal x.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F log_positive(typename L::F x) {
  const auto r = reduce<L>(x);
  return log_reduced<L>(L::exponent_value(r.h), L::sub(r.m, L::set(1)));
}

// factor * log(x) for 0 < x <= 1 where x - 1 is also known as `v`, more exactly than x can say near
// 1. Both come times factor.
template <class L, int factor = 1>
FASTINIT_HD FASTINIT_INLINE typename L::F log_near_one(typename L::F x, typename L::F v) {
  const auto r = reduce<L, factor>(x);
  const auto f = L::select(L::sign_of(r.h), L::sub(r.m, L::set(factor)), v);
  return log_reduced<L, factor>(L::exponent_value(r.h), f);
}

// cos and sin of the angle word t (and, in double, its low word), a full turn being 2^32.
template <class L>
FASTINIT_HD FASTINIT_INLINE void cos_sin(typename L::W t, typename L::W low, typename L::F& cosine,
                                         typename L::F& sine) {
  typename L::F y, s, c;
  if constexpr (is_double<L>) {
    y = L::fma(L::word_value(L::template word_shl<2>(t)), L::set(0x1p-32),
               L::mul(L::word_value_unsigned(low), L::set(0x1p-62)));
    const auto z = L::mul(y, y);
    s = L::mul(y, horner<L>(coef::kSin64, z));
    c = horner<L>(coef::kCos64, z);
  } else {
    (void)low;
    y = L::mul(L::word_value(L::template word_shl<2>(t)), L::set(0x1p-32f));
    const auto z = L::mul(y, y);
    s = L::mul(y, horner<L>(coef::kSin32, z));
    c = horner<L>(coef::kCos32, z);
  }
  // Quadrant = top two bits of t + 2^29: bit 30 swaps, bit 31 negates the sine, and that of the next
  // quadrant the cosine.
  const auto q = L::word_add(t, L::word_set(0x20000000u));
  const auto swap = L::word_sign(L::template word_shl<1>(q));
  const auto next = L::word_add(q, L::word_set(0x40000000u));
  cosine = L::from_bits(L::ixor(L::bits(L::select(swap, s, c)), L::word_top(next)));
  sine = L::from_bits(L::ixor(L::bits(L::select(swap, c, s)), L::word_top(q)));
}

// A quantile as a fraction, so that branches are chosen before the one division.
template <class L>
struct Fraction {
  typename L::F numerator, denominator;

  FASTINIT_HD FASTINIT_INLINE typename L::F value() const { return L::div(numerator, denominator); }
};

// The upper quantile of the normal distribution at tail probability exp(-minus_log).
template <class L>
FASTINIT_HD FASTINIT_INLINE Fraction<L> tail_quantile(typename L::F minus_log) {
  using Real = typename L::Real;
  const auto r = L::sqrt(minus_log);
  const auto near = L::sub(r, L::set(static_cast<Real>(1.6)));
  const auto is_far = L::greater(r, L::set(5));
  Fraction<L> z;
  if constexpr (is_double<L>)
    z = {horner<L>(coef::kC64, near), horner<L>(coef::kD64, near)};
  else
    z = {horner<L>(coef::kC32, near), horner<L>(coef::kD32, near)};
  if (L::any(is_far)) {
    const auto far = L::sub(r, L::set(5));
    Fraction<L> y;
    if constexpr (is_double<L>)
      y = {horner<L>(coef::kE64, far), horner<L>(coef::kF64, far)};
    else
      y = {horner<L>(coef::kE32, far), horner<L>(coef::kF32, far)};
    z = {L::select(is_far, y.numerator, z.numerator),
         L::select(is_far, y.denominator, z.denominator)};
  }
  return z;
}

}  // namespace fastinit
