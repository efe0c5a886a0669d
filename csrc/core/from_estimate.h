// Correctly rounded square roots and quotients in float from an estimate that hardware gives, so
// that device code needs no subroutine for arguments that never come. docs/performance.md, CUDA.
//
// Exact where nothing on the way leaves the normal range: arguments of magnitude in [2^-60, 2^60],
// and +-0 as the radicand or numerator. Callers see to that: radicands and fractions are in units
// of a standard deviation, and what is not divides otherwise (ScalarF32AnyQuotient).
// tests/cuda/test_cuda_host.py checks what the proofs rest on for every estimate that the instruction
// set permits.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastinit {

// sqrt(x) from y = (1 + d) / sqrt(x), |d| <= 2^-22.4: Goldschmidt's iteration with a last residual.
// Scaling x by 4 scales every step, so the proof is the exhaustive check of x in [1, 4). For x =
// +-0 any finite y will do.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F sqrt_from_estimate(typename L::F x, typename L::F y) {
  const auto g = L::mul(x, y), h = L::mul(L::set(0.5f), y);
  const auto e = L::negative_fma(h, g, L::set(0.5f));
  const auto g1 = L::fma(g, e, g), h1 = L::fma(h, e, h);
  return L::fma(L::negative_fma(g1, g1, x), h1, g1);
}

// 1 / b correctly rounded from y = (1 + d) / b, |d| <= 2^-23: checked for every significand. The
// iteration comes to rest one unit in the last place low, on a power of two, where all bits of b's
// significand are ones.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F reciprocal_from_estimate(typename L::F b,
                                                                   typename L::F y) {
  const auto once = L::fma(L::negative_fma(b, y, L::set(1)), y, y);
  const auto twice = L::fma(L::negative_fma(b, once, L::set(1)), once, once);
  const auto rest = L::iand(L::iadd(L::bits(b), L::iset(1)), L::iset(0x7fffffu));
  const auto all_ones = L::sign_of(L::isub(rest, L::iset(1)));
  return L::from_bits(L::ior(L::bits(twice), L::iselect(all_ones, L::iset(1), L::iset(0))));
}

// a / b: a faithful quotient and one exact residual, which with a correctly rounded reciprocal is
// enough (Markstein, "Computation of elementary functions on the IBM RISC System/6000 processor",
// 1990); its one doubtful divisor, of all ones, is checked with every numerator.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F quotient_from_estimate(typename L::F a, typename L::F b,
                                                                 typename L::F y) {
  const auto r = reciprocal_from_estimate<L>(b, y);
  const auto q = L::mul(a, r);
  const auto q1 = L::fma(L::negative_fma(b, q, a), r, q);
  const auto q2 = L::fma(L::negative_fma(b, q1, a), r, q1);
  // The residual of -0 is +0.
  const auto sign = L::iand(L::ixor(L::bits(a), L::bits(b)), L::iset(0x80000000u));
  return L::from_bits(L::ior(L::bits(L::magnitude(q2)), sign));
}

// The same in fewer steps, wrong for a few pairs in a hundred million. None of those is a fraction
// of the central quantile's: the check is of all of them, a function of one number each.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F short_quotient_from_estimate(typename L::F a,
                                                                       typename L::F b,
                                                                       typename L::F y) {
  const auto r = L::fma(L::negative_fma(b, y, L::set(1)), y, y);
  const auto q = L::mul(a, r);
  return L::fma(L::negative_fma(b, q, a), r, q);
}

}  // namespace fastinit
