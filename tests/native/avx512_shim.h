// Scalar stand-ins for the AVX-512 intrinsics that csrc/cpu/lanes_avx512.h uses, so that those
// lanes run on any processor. Each is written from the "Operation" section of Intel's intrinsics
// guide; in place of <immintrin.h>, never beside it. Another intrinsic in the lanes does not
// compile here until it is added.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct alignas(64) __m512i {
  uint32_t d[16];
  uint64_t q(int k) const { return d[2 * k] | static_cast<uint64_t>(d[2 * k + 1]) << 32; }
  void set_q(int k, uint64_t x) {
    d[2 * k] = static_cast<uint32_t>(x);
    d[2 * k + 1] = static_cast<uint32_t>(x >> 32);
  }
};
struct alignas(64) __m512 {
  float v[16];
};
struct alignas(64) __m512d {
  double v[8];
};
struct alignas(32) __m256i {
  uint16_t w[16];
};
using __mmask16 = uint16_t;
using __mmask8 = uint8_t;
constexpr int _CMP_GT_OQ = 0x1e;

// Out of line: inlined sixty-four times over, these would keep the compiler busy for minutes.
#define FASTINIT_SHIM inline __attribute__((noinline))

namespace shim {

template <class To, class From>
To cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
template <class Op>
__m512i each_d(Op op) {
  __m512i r;
  for (int k = 0; k < 16; ++k) r.d[k] = op(k);
  return r;
}
template <class Op>
__m512i each_q(Op op) {
  __m512i r;
  for (int k = 0; k < 8; ++k) r.set_q(k, op(k));
  return r;
}
template <class Op>
__m512 each_ps(Op op) {
  __m512 r;
  for (int k = 0; k < 16; ++k) r.v[k] = op(k);
  return r;
}
template <class Op>
__m512d each_pd(Op op) {
  __m512d r;
  for (int k = 0; k < 8; ++k) r.v[k] = op(k);
  return r;
}
template <class Mask, int n, class Op>
Mask each_bit(Op op) {
  unsigned r = 0;
  for (int k = 0; k < n; ++k) r |= static_cast<unsigned>(op(k)) << k;
  return static_cast<Mask>(r);
}

}  // namespace shim

// ---- constants and casts ------------------------------------------------------------------------

inline __m512i _mm512_setr_epi32(int a, int b, int c, int d, int e, int f, int g, int h, int i,
                                 int j, int k, int l, int m, int n, int o, int p) {
  const int all[] = {a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p};
  return shim::cast<__m512i>(all);
}
FASTINIT_SHIM __m512i _mm512_set1_epi32(int x) {
  return shim::each_d([&](int) { return static_cast<uint32_t>(x); });
}
FASTINIT_SHIM __m512i _mm512_set1_epi64(long long x) {
  return shim::each_q([&](int) { return static_cast<uint64_t>(x); });
}
FASTINIT_SHIM __m512 _mm512_set1_ps(float x) {
  return shim::each_ps([&](int) { return x; });
}
FASTINIT_SHIM __m512d _mm512_set1_pd(double x) {
  return shim::each_pd([&](int) { return x; });
}
FASTINIT_SHIM __m512i _mm512_setr_epi64(long long a, long long b, long long c, long long d,
                                        long long e, long long f, long long g, long long h) {
  const long long all[8] = {a, b, c, d, e, f, g, h};
  return shim::each_q([&](int k) { return static_cast<uint64_t>(all[k]); });
}
FASTINIT_SHIM __m512i _mm512_castps_si512(__m512 a) { return shim::cast<__m512i>(a); }
FASTINIT_SHIM __m512i _mm512_castpd_si512(__m512d a) { return shim::cast<__m512i>(a); }
FASTINIT_SHIM __m512 _mm512_castsi512_ps(__m512i a) { return shim::cast<__m512>(a); }
FASTINIT_SHIM __m512d _mm512_castsi512_pd(__m512i a) { return shim::cast<__m512d>(a); }

// ---- integers -----------------------------------------------------------------------------------

FASTINIT_SHIM __m512i _mm512_add_epi32(__m512i a, __m512i b) {
  return shim::each_d([&](int k) { return a.d[k] + b.d[k]; });
}
FASTINIT_SHIM __m512i _mm512_sub_epi32(__m512i a, __m512i b) {
  return shim::each_d([&](int k) { return a.d[k] - b.d[k]; });
}
FASTINIT_SHIM __m512i _mm512_add_epi64(__m512i a, __m512i b) {
  return shim::each_q([&](int k) { return a.q(k) + b.q(k); });
}
FASTINIT_SHIM __m512i _mm512_sub_epi64(__m512i a, __m512i b) {
  return shim::each_q([&](int k) { return a.q(k) - b.q(k); });
}
// The low half of each 64-bit lane, multiplied without loss.
FASTINIT_SHIM __m512i _mm512_mul_epu32(__m512i a, __m512i b) {
  return shim::each_q([&](int k) { return static_cast<uint64_t>(a.d[2 * k]) * b.d[2 * k]; });
}
FASTINIT_SHIM __m512i _mm512_and_si512(__m512i a, __m512i b) {
  return shim::each_d([&](int k) { return a.d[k] & b.d[k]; });
}
FASTINIT_SHIM __m512i _mm512_or_si512(__m512i a, __m512i b) {
  return shim::each_d([&](int k) { return a.d[k] | b.d[k]; });
}
FASTINIT_SHIM __m512i _mm512_xor_si512(__m512i a, __m512i b) {
  return shim::each_d([&](int k) { return a.d[k] ^ b.d[k]; });
}
// Each bit is the entry of `table` at the row that the three operands' bits spell, a's the highest.
FASTINIT_SHIM __m512i _mm512_ternarylogic_epi64(__m512i a, __m512i b, __m512i c, int table) {
  return shim::each_d([&](int k) {
    uint32_t r = 0;
    for (int row = 0; row < 8; ++row)
      if (table >> row & 1)
        r |= (row & 4 ? a.d[k] : ~a.d[k]) & (row & 2 ? b.d[k] : ~b.d[k]) &
             (row & 1 ? c.d[k] : ~c.d[k]);
    return r;
  });
}
// A shift by the width or more leaves nothing (or the sign).
FASTINIT_SHIM __m512i _mm512_slli_epi32(__m512i a, unsigned n) {
  return shim::each_d([&](int k) { return n > 31 ? 0 : a.d[k] << n; });
}
FASTINIT_SHIM __m512i _mm512_srli_epi32(__m512i a, unsigned n) {
  return shim::each_d([&](int k) { return n > 31 ? 0 : a.d[k] >> n; });
}
FASTINIT_SHIM __m512i _mm512_srai_epi32(__m512i a, unsigned n) {
  return shim::each_d([&](int k) {
    return static_cast<uint32_t>(static_cast<int32_t>(a.d[k]) >> (n > 31 ? 31 : n));
  });
}
FASTINIT_SHIM __m512i _mm512_slli_epi64(__m512i a, unsigned n) {
  return shim::each_q([&](int k) { return n > 63 ? 0 : a.q(k) << n; });
}
FASTINIT_SHIM __m512i _mm512_srli_epi64(__m512i a, unsigned n) {
  return shim::each_q([&](int k) { return n > 63 ? 0 : a.q(k) >> n; });
}
FASTINIT_SHIM __m512i _mm512_srai_epi64(__m512i a, unsigned n) {
  return shim::each_q([&](int k) {
    return static_cast<uint64_t>(static_cast<int64_t>(a.q(k)) >> (n > 63 ? 63 : n));
  });
}

// ---- floating point -----------------------------------------------------------------------------

FASTINIT_SHIM __m512 _mm512_add_ps(__m512 a, __m512 b) {
  return shim::each_ps([&](int k) { return a.v[k] + b.v[k]; });
}
FASTINIT_SHIM __m512 _mm512_sub_ps(__m512 a, __m512 b) {
  return shim::each_ps([&](int k) { return a.v[k] - b.v[k]; });
}
FASTINIT_SHIM __m512 _mm512_mul_ps(__m512 a, __m512 b) {
  return shim::each_ps([&](int k) { return a.v[k] * b.v[k]; });
}
FASTINIT_SHIM __m512 _mm512_div_ps(__m512 a, __m512 b) {
  return shim::each_ps([&](int k) { return a.v[k] / b.v[k]; });
}
FASTINIT_SHIM __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return shim::each_ps([&](int k) { return std::fma(a.v[k], b.v[k], c.v[k]); });
}
// c - a * b, rounded once.
FASTINIT_SHIM __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) {
  return shim::each_ps([&](int k) { return std::fma(-a.v[k], b.v[k], c.v[k]); });
}
FASTINIT_SHIM __m512 _mm512_sqrt_ps(__m512 a) {
  return shim::each_ps([&](int k) { return std::sqrt(a.v[k]); });
}
// The second operand unless the first is strictly beyond it: also for zeros and NaN.
FASTINIT_SHIM __m512 _mm512_max_ps(__m512 a, __m512 b) {
  return shim::each_ps([&](int k) { return a.v[k] > b.v[k] ? a.v[k] : b.v[k]; });
}
FASTINIT_SHIM __m512 _mm512_min_ps(__m512 a, __m512 b) {
  return shim::each_ps([&](int k) { return a.v[k] < b.v[k] ? a.v[k] : b.v[k]; });
}
FASTINIT_SHIM __m512d _mm512_add_pd(__m512d a, __m512d b) {
  return shim::each_pd([&](int k) { return a.v[k] + b.v[k]; });
}
FASTINIT_SHIM __m512d _mm512_sub_pd(__m512d a, __m512d b) {
  return shim::each_pd([&](int k) { return a.v[k] - b.v[k]; });
}
FASTINIT_SHIM __m512d _mm512_mul_pd(__m512d a, __m512d b) {
  return shim::each_pd([&](int k) { return a.v[k] * b.v[k]; });
}
FASTINIT_SHIM __m512d _mm512_div_pd(__m512d a, __m512d b) {
  return shim::each_pd([&](int k) { return a.v[k] / b.v[k]; });
}
FASTINIT_SHIM __m512d _mm512_fmadd_pd(__m512d a, __m512d b, __m512d c) {
  return shim::each_pd([&](int k) { return std::fma(a.v[k], b.v[k], c.v[k]); });
}
// c - a * b, rounded once.
FASTINIT_SHIM __m512d _mm512_fnmadd_pd(__m512d a, __m512d b, __m512d c) {
  return shim::each_pd([&](int k) { return std::fma(-a.v[k], b.v[k], c.v[k]); });
}
FASTINIT_SHIM __m512d _mm512_sqrt_pd(__m512d a) {
  return shim::each_pd([&](int k) { return std::sqrt(a.v[k]); });
}
FASTINIT_SHIM __m512d _mm512_max_pd(__m512d a, __m512d b) {
  return shim::each_pd([&](int k) { return a.v[k] > b.v[k] ? a.v[k] : b.v[k]; });
}
FASTINIT_SHIM __m512d _mm512_min_pd(__m512d a, __m512d b) {
  return shim::each_pd([&](int k) { return a.v[k] < b.v[k] ? a.v[k] : b.v[k]; });
}
FASTINIT_SHIM __m512 _mm512_cvtepi32_ps(__m512i a) {
  return shim::each_ps([&](int k) { return static_cast<float>(static_cast<int32_t>(a.d[k])); });
}
FASTINIT_SHIM __m512d _mm512_cvtepi64_pd(__m512i a) {
  return shim::each_pd([&](int k) { return static_cast<double>(static_cast<int64_t>(a.q(k))); });
}

// ---- masks --------------------------------------------------------------------------------------

FASTINIT_SHIM __mmask16 _mm512_movepi32_mask(__m512i a) {
  return shim::each_bit<__mmask16, 16>([&](int k) { return a.d[k] >> 31; });
}
FASTINIT_SHIM __mmask8 _mm512_movepi64_mask(__m512i a) {
  return shim::each_bit<__mmask8, 8>([&](int k) { return a.q(k) >> 63; });
}
template <int predicate>
bool shim_compare(double a, double b) {
  static_assert(predicate == _CMP_GT_OQ, "the only comparison the lanes use");
  return a > b;
}
#define _mm512_cmp_ps_mask(a, b, predicate) \
  shim::each_bit<__mmask16, 16>([&](int k) { return shim_compare<predicate>(a.v[k], b.v[k]); })
#define _mm512_cmp_pd_mask(a, b, predicate) \
  shim::each_bit<__mmask8, 8>([&](int k) { return shim_compare<predicate>(a.v[k], b.v[k]); })
// `b` where the bit is set.
FASTINIT_SHIM __m512i _mm512_mask_blend_epi32(__mmask16 m, __m512i a, __m512i b) {
  return shim::each_d([&](int k) { return m >> k & 1 ? b.d[k] : a.d[k]; });
}
FASTINIT_SHIM __m512 _mm512_mask_blend_ps(__mmask16 m, __m512 a, __m512 b) {
  return shim::each_ps([&](int k) { return m >> k & 1 ? b.v[k] : a.v[k]; });
}
FASTINIT_SHIM __m512d _mm512_mask_blend_pd(__mmask8 m, __m512d a, __m512d b) {
  return shim::each_pd([&](int k) { return m >> k & 1 ? b.v[k] : a.v[k]; });
}

// ---- moving elements ----------------------------------------------------------------------------

// Within each 128-bit quarter: elements 0 and 1 (2 and 3) of both operands, alternating.
FASTINIT_SHIM __m512i _mm512_unpacklo_epi32(__m512i a, __m512i b) {
  return shim::each_d([&](int k) {
    const int from = k / 4 * 4 + k % 4 / 2;
    return k % 2 ? b.d[from] : a.d[from];
  });
}
FASTINIT_SHIM __m512i _mm512_unpackhi_epi32(__m512i a, __m512i b) {
  return shim::each_d([&](int k) {
    const int from = k / 4 * 4 + 2 + k % 4 / 2;
    return k % 2 ? b.d[from] : a.d[from];
  });
}
// Low three bits of an index: the element; the next: of `b`.
FASTINIT_SHIM __m512d _mm512_permutex2var_pd(__m512d a, __m512i index, __m512d b) {
  return shim::each_pd([&](int k) {
    const uint64_t i = index.q(k);
    return i & 8 ? b.v[i & 7] : a.v[i & 7];
  });
}
FASTINIT_SHIM __m256i _mm512_cvtepi32_epi16(__m512i a) {  // cuts off, does not saturate
  __m256i r;
  for (int k = 0; k < 16; ++k) r.w[k] = static_cast<uint16_t>(a.d[k]);
  return r;
}
FASTINIT_SHIM __m256i _mm512_cvtepi64_epi32(__m512i a) {  // cuts off, does not saturate
  __m256i r;
  for (int k = 0; k < 8; ++k) std::memcpy(&r.w[2 * k], &a.d[2 * k], 4);
  return r;
}
FASTINIT_SHIM __m512i _mm512_cvtepu32_epi64(__m256i a) {
  __m512i r;
  for (int k = 0; k < 8; ++k) {
    uint32_t d;
    std::memcpy(&d, &a.w[2 * k], 4);
    r.set_q(k, d);
  }
  return r;
}
// The elements whose bit is set, side by side, then zeros.
FASTINIT_SHIM __m512i _mm512_maskz_compress_epi32(__mmask16 m, __m512i a) {
  __m512i r{};
  int kept = 0;
  for (int k = 0; k < 16; ++k)
    if (m >> k & 1) r.d[kept++] = a.d[k];
  return r;
}
FASTINIT_SHIM __m512i _mm512_maskz_compress_epi64(__mmask8 m, __m512i a) {
  __m512i r{};
  int kept = 0;
  for (int k = 0; k < 8; ++k)
    if (m >> k & 1) r.set_q(kept++, a.q(k));
  return r;
}
FASTINIT_SHIM int _mm_popcnt_u32(unsigned a) {
  int n = 0;
  for (; a != 0; a &= a - 1) ++n;
  return n;
}
FASTINIT_SHIM __m512i _mm512_loadu_si512(const void* from) {
  __m512i r;
  std::memcpy(&r, from, 64);
  return r;
}
FASTINIT_SHIM __m512 _mm512_loadu_ps(const void* from) {
  __m512 r;
  std::memcpy(&r, from, 64);
  return r;
}
FASTINIT_SHIM __m512d _mm512_loadu_pd(const void* from) {
  __m512d r;
  std::memcpy(&r, from, 64);
  return r;
}
FASTINIT_SHIM __m256i _mm256_loadu_si256(const __m256i* from) {
  __m256i r;
  std::memcpy(&r, from, 32);
  return r;
}
FASTINIT_SHIM void _mm512_storeu_ps(void* to, __m512 a) { std::memcpy(to, &a, 64); }
FASTINIT_SHIM void _mm512_storeu_si512(void* to, __m512i a) { std::memcpy(to, &a, 64); }
FASTINIT_SHIM void _mm512_storeu_pd(void* to, __m512d a) { std::memcpy(to, &a, 64); }
FASTINIT_SHIM void _mm256_storeu_si256(void* to, __m256i a) { std::memcpy(to, &a, 32); }
