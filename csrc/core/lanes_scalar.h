// Lanes of width one: the reference that every wider lane type follows operation by operation, and
// what device code uses. A lane type supplies exactly these names; transforms.h is written in them.
//
//   Real, F (values), I (integers as wide as Real), M (mask)
//   set, iset            broadcast
//   add sub mul div fma negative_fma (c - a b) sqrt negate magnitude
//   bits, from_bits, iadd isub iand ixor, sign_of (I -> M), sign_of_value (not of 0),
//   exponent_part, exponent_value (of an exponent_part; in float times 2^23)
//   greater, select(M, yes, no), any
//   at_least(x, lo) = x < lo ? lo : x and at_most(x, hi) = x > hi ? hi : x, exactly so
//   word_*               operate on the low 32 bits of an integer lane, which hold one word of the
//                        stream
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/from_estimate.h"
#include "core/macros.h"

namespace fastinit {

template <class To, class From>
FASTINIT_HD FASTINIT_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Word operations are the same for both widths: a word lives in a uint32_t.
struct ScalarWords {
  using W = uint32_t;
  static FASTINIT_HD FASTINIT_INLINE W word_set(uint32_t w) { return w; }
  static FASTINIT_HD FASTINIT_INLINE W word_xor(W a, W b) { return a ^ b; }
  static FASTINIT_HD FASTINIT_INLINE W word_add(W a, W b) { return a + b; }
  template <int n>
  static FASTINIT_HD FASTINIT_INLINE W word_shl(W a) {
    return a << n;
  }
  template <int n>
  static FASTINIT_HD FASTINIT_INLINE W word_shr(W a) {
    return a >> n;
  }
  static FASTINIT_HD FASTINIT_INLINE W word_spread_sign(W a) { return 0u - (a >> 31); }
};

struct ScalarF32 : ScalarWords {
  using Real = float;
  using F = float;
  using I = uint32_t;
  using M = bool;
  static constexpr int kWidth = 1;

  static FASTINIT_HD FASTINIT_INLINE F set(float x) { return x; }
  static FASTINIT_HD FASTINIT_INLINE I iset(uint32_t x) { return x; }
#if FASTINIT_DEVICE_PASS
  static FASTINIT_HD FASTINIT_INLINE F add(F a, F b) { return __fadd_rn(a, b); }
  static FASTINIT_HD FASTINIT_INLINE F sub(F a, F b) { return __fsub_rn(a, b); }
  static FASTINIT_HD FASTINIT_INLINE F mul(F a, F b) { return __fmul_rn(a, b); }
  static FASTINIT_HD FASTINIT_INLINE F fma(F a, F b, F c) { return __fmaf_rn(a, b, c); }
  // One instruction for two. The smaller of -0 and +0 is -0 here and would be x above: they differ
  // for x = +0 and hi = -0, and no upper bound is -0 (params.h).
  static FASTINIT_HD FASTINIT_INLINE F at_most(F x, F hi) { return fminf(x, hi); }
  static FASTINIT_HD FASTINIT_INLINE F negate(F a) { return -a; }  // free, in a multiply-add
#else
  static FASTINIT_HD FASTINIT_INLINE F add(F a, F b) { return a + b; }
  static FASTINIT_HD FASTINIT_INLINE F sub(F a, F b) { return a - b; }
  static FASTINIT_HD FASTINIT_INLINE F mul(F a, F b) { return a * b; }
  static FASTINIT_HD FASTINIT_INLINE F fma(F a, F b, F c) { return ::fmaf(a, b, c); }
  static FASTINIT_HD FASTINIT_INLINE F negate(F a) { return from_bits(bits(a) ^ 0x80000000u); }
  static FASTINIT_HD FASTINIT_INLINE F at_most(F x, F hi) { return x > hi ? hi : x; }
#endif
#if FASTINIT_ESTIMATES
  // Not __fdiv_rn and __fsqrt_rn, whose unused slow paths cost every caller registers.
  static FASTINIT_HD FASTINIT_INLINE F div(F a, F b) {
    return quotient_from_estimate<ScalarF32>(a, b, reciprocal_estimate(b));
  }
  static FASTINIT_HD FASTINIT_INLINE F sqrt(F a) {
    const F like = a > 0x1p-126f ? a : 0x1p-126f;  // finite for 0
    return sqrt_from_estimate<ScalarF32>(a, root_estimate(like));
  }
#else
  static FASTINIT_HD FASTINIT_INLINE F div(F a, F b) { return a / b; }
  static FASTINIT_HD FASTINIT_INLINE F sqrt(F a) { return ::sqrtf(a); }
#endif
  // 1 / b and 1 / sqrt(a), nearly.
  static FASTINIT_HD FASTINIT_INLINE F reciprocal_estimate(F b) {
#if FASTINIT_DEVICE_PASS
    F y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(b));
    return y;
#else
    return 1 / b;
#endif
  }
  static FASTINIT_HD FASTINIT_INLINE F root_estimate(F a) {
#if FASTINIT_DEVICE_PASS
    F y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(a));
    return y;
#else
    return 1 / ::sqrtf(a);
#endif
  }
  static FASTINIT_HD FASTINIT_INLINE I bits(F a) { return bit_cast<uint32_t>(a); }
  static FASTINIT_HD FASTINIT_INLINE F from_bits(I a) { return bit_cast<float>(a); }
  static FASTINIT_HD FASTINIT_INLINE F negative_fma(F a, F b, F c) { return fma(negate(a), b, c); }
  static FASTINIT_HD FASTINIT_INLINE F magnitude(F a) { return from_bits(bits(a) & 0x7fffffffu); }
  static FASTINIT_HD FASTINIT_INLINE I iadd(I a, I b) { return a + b; }
  static FASTINIT_HD FASTINIT_INLINE I isub(I a, I b) { return a - b; }
  static FASTINIT_HD FASTINIT_INLINE I iand(I a, I b) { return a & b; }
  static FASTINIT_HD FASTINIT_INLINE I ior(I a, I b) { return a | b; }
  static FASTINIT_HD FASTINIT_INLINE I ixor(I a, I b) { return a ^ b; }
  template <int n>
  static FASTINIT_HD FASTINIT_INLINE I ishr(I a) {
    return a >> n;
  }
  static FASTINIT_HD FASTINIT_INLINE M sign_of(I a) { return static_cast<int32_t>(a) < 0; }
  // A comparison with zero can be one instruction with the choice between 0 and 1 that follows.
  static FASTINIT_HD FASTINIT_INLINE M sign_of_value(F a) { return !(a > 0.0f); }
  static FASTINIT_HD FASTINIT_INLINE I exponent_part(I a) { return a & 0xff800000u; }
  static FASTINIT_HD FASTINIT_INLINE F exponent_value(I a) {
    return static_cast<float>(static_cast<int32_t>(exponent_part(a)));
  }
  static FASTINIT_HD FASTINIT_INLINE M greater(F a, F b) { return a > b; }
  static FASTINIT_HD FASTINIT_INLINE F at_least(F x, F lo) { return x < lo ? lo : x; }
  static FASTINIT_HD FASTINIT_INLINE F select(M m, F yes, F no) { return m ? yes : no; }
  static FASTINIT_HD FASTINIT_INLINE I iselect(M m, I yes, I no) { return m ? yes : no; }
  static FASTINIT_HD FASTINIT_INLINE bool any(M m) { return m; }

  static FASTINIT_HD FASTINIT_INLINE M word_sign(W w) { return static_cast<int32_t>(w) < 0; }
  // float(int32(w)), rounded to nearest.
  static FASTINIT_HD FASTINIT_INLINE F word_value(W w) {
#if FASTINIT_DEVICE_PASS
    return __int2float_rn(static_cast<int32_t>(w));
#else
    return static_cast<float>(static_cast<int32_t>(w));
#endif
  }
  // The word's top bit as the sign bit of a value, all other bits clear.
  static FASTINIT_HD FASTINIT_INLINE I word_top(W w) { return w & 0x80000000u; }
};

// The same where no square root is taken of zero, and no sample is -0 beside a bound of +0
// (may_clamp_negative_zero, cuda/tiling.h).
struct ScalarF32Positive : ScalarF32 {
#if FASTINIT_DEVICE_PASS
  static FASTINIT_HD FASTINIT_INLINE F at_least(F x, F lo) { return fmaxf(x, lo); }
#endif
#if FASTINIT_ESTIMATES
  static FASTINIT_HD FASTINIT_INLINE F sqrt(F a) {
    return sqrt_from_estimate<ScalarF32>(a, root_estimate(a));
  }
#endif
};

// The same for central truncated normals, whose quotients need fewer steps.
struct ScalarF32Central : ScalarF32Positive {
#if FASTINIT_ESTIMATES
  static FASTINIT_HD FASTINIT_INLINE F div(F a, F b) {
    return short_quotient_from_estimate<ScalarF32>(a, b, reciprocal_estimate(b));
  }
#endif
};

// For quotients of any magnitude: of samples in their own units, which may be tiny.
struct ScalarF32AnyQuotient : ScalarF32 {
#if FASTINIT_DEVICE_PASS
  static FASTINIT_HD FASTINIT_INLINE F div(F a, F b) { return __fdiv_rn(a, b); }
#else
  static FASTINIT_HD FASTINIT_INLINE F div(F a, F b) { return a / b; }
#endif
};

struct ScalarF64 : ScalarWords {
  using Real = double;
  using F = double;
  using I = uint64_t;
  using M = bool;
  static constexpr int kWidth = 1;

  static FASTINIT_HD FASTINIT_INLINE F set(double x) { return x; }
  static FASTINIT_HD FASTINIT_INLINE I iset(uint64_t x) { return x; }
#if FASTINIT_DEVICE_PASS
  static FASTINIT_HD FASTINIT_INLINE F add(F a, F b) { return __dadd_rn(a, b); }
  static FASTINIT_HD FASTINIT_INLINE F sub(F a, F b) { return __dsub_rn(a, b); }
  static FASTINIT_HD FASTINIT_INLINE F mul(F a, F b) { return __dmul_rn(a, b); }
  static FASTINIT_HD FASTINIT_INLINE F div(F a, F b) { return __ddiv_rn(a, b); }
  static FASTINIT_HD FASTINIT_INLINE F fma(F a, F b, F c) { return __fma_rn(a, b, c); }
  static FASTINIT_HD FASTINIT_INLINE F sqrt(F a) { return __dsqrt_rn(a); }
#else
  static FASTINIT_HD FASTINIT_INLINE F add(F a, F b) { return a + b; }
  static FASTINIT_HD FASTINIT_INLINE F sub(F a, F b) { return a - b; }
  static FASTINIT_HD FASTINIT_INLINE F mul(F a, F b) { return a * b; }
  static FASTINIT_HD FASTINIT_INLINE F div(F a, F b) { return a / b; }
  static FASTINIT_HD FASTINIT_INLINE F fma(F a, F b, F c) { return ::fma(a, b, c); }
  static FASTINIT_HD FASTINIT_INLINE F sqrt(F a) { return ::sqrt(a); }
#endif
  static FASTINIT_HD FASTINIT_INLINE I bits(F a) { return bit_cast<uint64_t>(a); }
  static FASTINIT_HD FASTINIT_INLINE F from_bits(I a) { return bit_cast<double>(a); }
  static FASTINIT_HD FASTINIT_INLINE F negative_fma(F a, F b, F c) { return fma(negate(a), b, c); }
  static FASTINIT_HD FASTINIT_INLINE F negate(F a) { return from_bits(bits(a) ^ (1ull << 63)); }
  static FASTINIT_HD FASTINIT_INLINE F magnitude(F a) { return from_bits(bits(a) & ~(1ull << 63)); }
  static FASTINIT_HD FASTINIT_INLINE I iadd(I a, I b) { return a + b; }
  static FASTINIT_HD FASTINIT_INLINE I isub(I a, I b) { return a - b; }
  static FASTINIT_HD FASTINIT_INLINE I iand(I a, I b) { return a & b; }
  static FASTINIT_HD FASTINIT_INLINE I ixor(I a, I b) { return a ^ b; }
  static FASTINIT_HD FASTINIT_INLINE M sign_of(I a) { return static_cast<int64_t>(a) < 0; }
  static FASTINIT_HD FASTINIT_INLINE M sign_of_value(F a) { return sign_of(bits(a)); }
  static FASTINIT_HD FASTINIT_INLINE I exponent_part(I a) { return a & 0xfff0000000000000ull; }
  static FASTINIT_HD FASTINIT_INLINE F exponent_value(I a) {
    return static_cast<double>(static_cast<int64_t>(a) >> 52);
  }
  static FASTINIT_HD FASTINIT_INLINE M greater(F a, F b) { return a > b; }
  static FASTINIT_HD FASTINIT_INLINE F at_least(F x, F lo) { return x < lo ? lo : x; }
  static FASTINIT_HD FASTINIT_INLINE F at_most(F x, F hi) { return x > hi ? hi : x; }
  static FASTINIT_HD FASTINIT_INLINE F select(M m, F yes, F no) { return m ? yes : no; }
  static FASTINIT_HD FASTINIT_INLINE bool any(M m) { return m; }

  static FASTINIT_HD FASTINIT_INLINE M word_sign(W w) { return static_cast<int32_t>(w) < 0; }
  static FASTINIT_HD FASTINIT_INLINE F word_value(W w) {
    return static_cast<double>(static_cast<int32_t>(w));
  }
  static FASTINIT_HD FASTINIT_INLINE F word_value_unsigned(W w) { return static_cast<double>(w); }
  static FASTINIT_HD FASTINIT_INLINE I word_top(W w) {
    return static_cast<uint64_t>(w & 0x80000000u) << 32;
  }
};

}  // namespace fastinit
