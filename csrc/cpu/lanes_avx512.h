// AVX-512 (F, DQ, VL) lanes: sixteen floats, eight doubles, eight blocks. Included inside a target
// region, after every other header (capability_avx512.cpp), or over the scalar stand-ins of the
// intrinsics in tests/native/avx512_shim.h. Names as in lanes_scalar.h.
#pragma once

namespace fastinit::cpu::avx512 {

struct WordsAvx512 {
  using W = __m512i;
  static FASTINIT_INLINE W word_set(uint32_t w) { return _mm512_set1_epi32(static_cast<int>(w)); }
  static FASTINIT_INLINE W word_xor(W a, W b) { return _mm512_xor_si512(a, b); }
  static FASTINIT_INLINE W word_add(W a, W b) { return _mm512_add_epi32(a, b); }
  template <int n>
  static FASTINIT_INLINE W word_shl(W a) {
    return _mm512_slli_epi32(a, n);
  }
  template <int n>
  static FASTINIT_INLINE W word_shr(W a) {
    return _mm512_srli_epi32(a, n);
  }
  static FASTINIT_INLINE W word_spread_sign(W a) { return _mm512_srai_epi32(a, 31); }
};

struct F32 : WordsAvx512 {
  using Real = float;
  using F = __m512;
  using I = __m512i;
  using M = __mmask16;
  static constexpr int kWidth = 16;

  static FASTINIT_INLINE F set(float x) { return _mm512_set1_ps(x); }
  static FASTINIT_INLINE I iset(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static FASTINIT_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  static FASTINIT_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static FASTINIT_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static FASTINIT_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  static FASTINIT_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static FASTINIT_INLINE F negative_fma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static FASTINIT_INLINE F sqrt(F a) { return _mm512_sqrt_ps(a); }
  static FASTINIT_INLINE I bits(F a) { return _mm512_castps_si512(a); }
  static FASTINIT_INLINE F from_bits(I a) { return _mm512_castsi512_ps(a); }
  static FASTINIT_INLINE F negate(F a) { return from_bits(ixor(bits(a), iset(0x80000000u))); }
  static FASTINIT_INLINE F magnitude(F a) { return from_bits(iand(bits(a), iset(0x7fffffffu))); }
  static FASTINIT_INLINE I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
  static FASTINIT_INLINE I isub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static FASTINIT_INLINE I iand(I a, I b) { return _mm512_and_si512(a, b); }
  static FASTINIT_INLINE I ior(I a, I b) { return _mm512_or_si512(a, b); }
  static FASTINIT_INLINE I ixor(I a, I b) { return _mm512_xor_si512(a, b); }
  template <int n>
  static FASTINIT_INLINE I ishr(I a) {
    return _mm512_srli_epi32(a, n);
  }
  static FASTINIT_INLINE M sign_of(I a) { return _mm512_movepi32_mask(a); }
  static FASTINIT_INLINE M sign_of_value(F a) { return sign_of(bits(a)); }
  static FASTINIT_INLINE I exponent_part(I a) { return iand(a, iset(0xff800000u)); }
  static FASTINIT_INLINE F exponent_value(I a) { return _mm512_cvtepi32_ps(exponent_part(a)); }
  // These instructions return their second operand unless the first is strictly beyond it.
  static FASTINIT_INLINE F at_least(F x, F lo) { return _mm512_max_ps(lo, x); }
  static FASTINIT_INLINE F at_most(F x, F hi) { return _mm512_min_ps(hi, x); }
  static FASTINIT_INLINE M greater(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static FASTINIT_INLINE F select(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
  static FASTINIT_INLINE I iselect(M m, I yes, I no) { return _mm512_mask_blend_epi32(m, no, yes); }
  static FASTINIT_INLINE bool any(M m) { return m != 0; }

  static FASTINIT_INLINE M word_sign(W w) { return _mm512_movepi32_mask(w); }
  static FASTINIT_INLINE F word_value(W w) { return _mm512_cvtepi32_ps(w); }
  static FASTINIT_INLINE I word_top(W w) { return iand(w, iset(0x80000000u)); }

  static FASTINIT_INLINE F load(const float* from) { return _mm512_loadu_ps(from); }
  static FASTINIT_INLINE void store(float* to, F x) { _mm512_storeu_ps(to, x); }
  static FASTINIT_INLINE W word_load(const uint32_t* from) { return _mm512_loadu_si512(from); }
  static FASTINIT_INLINE W word_iota() {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
  static FASTINIT_INLINE int count(M m) { return _mm_popcnt_u32(m); }
  static FASTINIT_INLINE void compress(uint32_t* to, M m, W w) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(m, w));
  }
};

struct F64 : WordsAvx512 {
  using Real = double;
  using F = __m512d;
  using I = __m512i;
  using M = __mmask8;
  static constexpr int kWidth = 8;

  static FASTINIT_INLINE F set(double x) { return _mm512_set1_pd(x); }
  static FASTINIT_INLINE I iset(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  static FASTINIT_INLINE F add(F a, F b) { return _mm512_add_pd(a, b); }
  static FASTINIT_INLINE F sub(F a, F b) { return _mm512_sub_pd(a, b); }
  static FASTINIT_INLINE F mul(F a, F b) { return _mm512_mul_pd(a, b); }
  static FASTINIT_INLINE F div(F a, F b) { return _mm512_div_pd(a, b); }
  static FASTINIT_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_pd(a, b, c); }
  static FASTINIT_INLINE F negative_fma(F a, F b, F c) { return _mm512_fnmadd_pd(a, b, c); }
  static FASTINIT_INLINE F sqrt(F a) { return _mm512_sqrt_pd(a); }
  static FASTINIT_INLINE I bits(F a) { return _mm512_castpd_si512(a); }
  static FASTINIT_INLINE F from_bits(I a) { return _mm512_castsi512_pd(a); }
  static FASTINIT_INLINE F negate(F a) { return from_bits(ixor(bits(a), iset(1ull << 63))); }
  static FASTINIT_INLINE F magnitude(F a) { return from_bits(iand(bits(a), iset(~(1ull << 63)))); }
  static FASTINIT_INLINE I isub(I a, I b) { return _mm512_sub_epi64(a, b); }
  static FASTINIT_INLINE I iand(I a, I b) { return _mm512_and_si512(a, b); }
  static FASTINIT_INLINE I ixor(I a, I b) { return _mm512_xor_si512(a, b); }
  static FASTINIT_INLINE M sign_of(I a) { return _mm512_movepi64_mask(a); }
  static FASTINIT_INLINE M sign_of_value(F a) { return sign_of(bits(a)); }
  static FASTINIT_INLINE I exponent_part(I a) { return iand(a, iset(0xfff0000000000000ull)); }
  static FASTINIT_INLINE F exponent_value(I a) {
    return _mm512_cvtepi64_pd(_mm512_srai_epi64(a, 52));
  }
  // These instructions return their second operand unless the first is strictly beyond it.
  static FASTINIT_INLINE F at_least(F x, F lo) { return _mm512_max_pd(lo, x); }
  static FASTINIT_INLINE F at_most(F x, F hi) { return _mm512_min_pd(hi, x); }
  static FASTINIT_INLINE M greater(F a, F b) { return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ); }
  static FASTINIT_INLINE F select(M m, F yes, F no) { return _mm512_mask_blend_pd(m, no, yes); }
  static FASTINIT_INLINE bool any(M m) { return m != 0; }

  static FASTINIT_INLINE M word_sign(W w) { return _mm512_movepi64_mask(_mm512_slli_epi64(w, 32)); }
  static FASTINIT_INLINE F word_value_unsigned(W w) {
    return _mm512_cvtepi64_pd(iand(w, iset(0xffffffffull)));
  }
  static FASTINIT_INLINE F word_value(W w) {
    return _mm512_cvtepi64_pd(_mm512_srai_epi64(_mm512_slli_epi64(w, 32), 32));
  }
  static FASTINIT_INLINE I word_top(W w) {
    return iand(_mm512_slli_epi64(w, 32), iset(1ull << 63));
  }

  static FASTINIT_INLINE F load(const double* from) { return _mm512_loadu_pd(from); }
  static FASTINIT_INLINE void store(double* to, F x) { _mm512_storeu_pd(to, x); }
  static FASTINIT_INLINE W word_load(const uint32_t* from) {
    return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static FASTINIT_INLINE W word_iota() { return _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7); }
  static FASTINIT_INLINE int count(M m) { return _mm_popcnt_u32(m); }
  static FASTINIT_INLINE void compress(uint32_t* to, M m, W w) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtepi64_epi32(_mm512_maskz_compress_epi64(m, w)));
  }
};

struct Lanes {
  using F32 = avx512::F32;
  using F64 = avx512::F64;
  using V = __m512i;
  static constexpr int kBlocks = 8, kParts = 1, kInterleave = 4;
  static constexpr int kRadiiAbreast = 4, kPointsAbreast = 3;
  static constexpr bool kUnitExact = true;

  static FASTINIT_INLINE V vset(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  static FASTINIT_INLINE V vorder_plain() { return _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7); }
  static FASTINIT_INLINE V vorder_interleaved() {
    return _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  }
  static FASTINIT_INLINE V vadd(V a, V b) { return _mm512_add_epi64(a, b); }
  static FASTINIT_INLINE V vmul(V a, V b) { return _mm512_mul_epu32(a, b); }
  static FASTINIT_INLINE V vhigh(V a) { return _mm512_srli_epi64(a, 32); }
  static FASTINIT_INLINE V vxor(V a, V b) { return _mm512_xor_si512(a, b); }
  static FASTINIT_INLINE V vxor3(V a, V b, V c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
  static FASTINIT_INLINE V vpack(V x, V y) {
    return _mm512_mask_blend_epi32(0xAAAA, x, _mm512_slli_epi64(y, 32));
  }
  static FASTINIT_INLINE V vkeys(uint32_t k0, uint32_t k1) { return vset(k0 | uint64_t{k1} << 32); }
  static FASTINIT_INLINE void last_round(V p0, V p1, V x1, V x3, V keys, V& even, V& odd) {
    // The high half of p0 is in place already.
    const V high = _mm512_mask_blend_epi32(0xAAAA, vhigh(p1), p0);
    even = vxor3(high, vpack(x1, x3), keys);
    odd = vpack(p1, p0);
  }
  static FASTINIT_INLINE V word32(V v, int) { return v; }
  static FASTINIT_INLINE V word64(V x) { return x; }

  static FASTINIT_INLINE void store32(char* out, __m512i even, __m512i odd) {
    _mm512_storeu_si512(out, _mm512_unpacklo_epi32(even, odd));
    _mm512_storeu_si512(out + 64, _mm512_unpackhi_epi32(even, odd));
  }
  static FASTINIT_INLINE void store16(char* out, __m512i even, __m512i odd) {
    _mm512_storeu_si512(out, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
  }
  static FASTINIT_INLINE void store16_high(char* out, __m512i even, __m512i odd) {
    const V high = vset(0xffff0000ffff0000ull);  // where it is set, bits of odd
    _mm512_storeu_si512(out,
                        _mm512_ternarylogic_epi64(high, odd, _mm512_srli_epi32(even, 16), 0xCA));
  }
  static FASTINIT_INLINE void store8(char* out, __m512i even, __m512i odd) {
    const __m512i both = _mm512_or_si512(even, _mm512_slli_epi32(odd, 8));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(both));
  }
  static FASTINIT_INLINE void store64(char* out, __m512d a, __m512d b, __m512d c, __m512d d) {
    // Element order is a[k] b[k] c[k] d[k] for block k: first pair up (a, b) and (c, d), then
    // merge.
    const __m512i pair_low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i pair_high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    const __m512i merge_low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i merge_high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    const __m512d ab0 = _mm512_permutex2var_pd(a, pair_low, b);
    const __m512d ab1 = _mm512_permutex2var_pd(a, pair_high, b);
    const __m512d cd0 = _mm512_permutex2var_pd(c, pair_low, d);
    const __m512d cd1 = _mm512_permutex2var_pd(c, pair_high, d);
    _mm512_storeu_pd(out, _mm512_permutex2var_pd(ab0, merge_low, cd0));
    _mm512_storeu_pd(out + 64, _mm512_permutex2var_pd(ab0, merge_high, cd0));
    _mm512_storeu_pd(out + 128, _mm512_permutex2var_pd(ab1, merge_low, cd1));
    _mm512_storeu_pd(out + 192, _mm512_permutex2var_pd(ab1, merge_high, cd1));
  }
};

}  // namespace fastinit::cpu::avx512
