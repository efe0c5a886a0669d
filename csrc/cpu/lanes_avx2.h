// AVX2 + FMA lanes: eight floats, four doubles, four blocks. Included inside a target region, after
// every other header (capability_avx2.cpp). Names as in lanes_scalar.h.
#pragma once

namespace fastinit::cpu::avx2 {

// For each set of lanes, those lanes, in order, as indices of 32-bit lanes `stride` apart.
template <int lanes, int stride>
struct CompressTable {
  uint8_t index[1 << lanes][8];
  constexpr CompressTable() : index{} {
    for (int set = 0; set < 1 << lanes; ++set) {
      int kept = 0;
      for (int lane = 0; lane < lanes; ++lane)
        if (set >> lane & 1) index[set][kept++] = static_cast<uint8_t>(lane * stride);
    }
  }
};
constexpr CompressTable<8, 1> kCompress8;
constexpr CompressTable<4, 2> kCompress4;

FASTINIT_INLINE __m256i pick_words(__m256i words, const uint8_t (&index)[8]) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(index));
  return _mm256_permutevar8x32_epi32(words, _mm256_cvtepu8_epi32(bytes));
}

struct WordsAvx2 {
  using W = __m256i;
  static FASTINIT_INLINE W word_set(uint32_t w) { return _mm256_set1_epi32(static_cast<int>(w)); }
  static FASTINIT_INLINE W word_xor(W a, W b) { return _mm256_xor_si256(a, b); }
  static FASTINIT_INLINE W word_add(W a, W b) { return _mm256_add_epi32(a, b); }
  template <int n>
  static FASTINIT_INLINE W word_shl(W a) {
    return _mm256_slli_epi32(a, n);
  }
  template <int n>
  static FASTINIT_INLINE W word_shr(W a) {
    return _mm256_srli_epi32(a, n);
  }
  static FASTINIT_INLINE W word_spread_sign(W a) { return _mm256_srai_epi32(a, 31); }
};

// Masks are vectors of which only the sign bits count.
struct F32 : WordsAvx2 {
  using Real = float;
  using F = __m256;
  using I = __m256i;
  using M = __m256;
  static constexpr int kWidth = 8;

  static FASTINIT_INLINE F set(float x) { return _mm256_set1_ps(x); }
  static FASTINIT_INLINE I iset(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static FASTINIT_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  static FASTINIT_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static FASTINIT_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static FASTINIT_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  static FASTINIT_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static FASTINIT_INLINE F negative_fma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  static FASTINIT_INLINE F sqrt(F a) { return _mm256_sqrt_ps(a); }
  static FASTINIT_INLINE I bits(F a) { return _mm256_castps_si256(a); }
  static FASTINIT_INLINE F from_bits(I a) { return _mm256_castsi256_ps(a); }
  static FASTINIT_INLINE F negate(F a) { return _mm256_xor_ps(a, set(-0.0f)); }
  static FASTINIT_INLINE F magnitude(F a) { return _mm256_andnot_ps(set(-0.0f), a); }
  static FASTINIT_INLINE I iadd(I a, I b) { return _mm256_add_epi32(a, b); }
  static FASTINIT_INLINE I isub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static FASTINIT_INLINE I iand(I a, I b) { return _mm256_and_si256(a, b); }
  static FASTINIT_INLINE I ior(I a, I b) { return _mm256_or_si256(a, b); }
  static FASTINIT_INLINE I ixor(I a, I b) { return _mm256_xor_si256(a, b); }
  template <int n>
  static FASTINIT_INLINE I ishr(I a) {
    return _mm256_srli_epi32(a, n);
  }
  static FASTINIT_INLINE M sign_of(I a) { return _mm256_castsi256_ps(a); }
  static FASTINIT_INLINE M sign_of_value(F a) { return a; }
  static FASTINIT_INLINE I exponent_part(I a) { return iand(a, iset(0xff800000u)); }
  static FASTINIT_INLINE F exponent_value(I a) { return _mm256_cvtepi32_ps(exponent_part(a)); }
  // These instructions return their second operand unless the first is strictly beyond it.
  static FASTINIT_INLINE F at_least(F x, F lo) { return _mm256_max_ps(lo, x); }
  static FASTINIT_INLINE F at_most(F x, F hi) { return _mm256_min_ps(hi, x); }
  static FASTINIT_INLINE M greater(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
  static FASTINIT_INLINE F select(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
  static FASTINIT_INLINE I iselect(M m, I yes, I no) {
    return bits(select(m, from_bits(yes), from_bits(no)));
  }
  static FASTINIT_INLINE bool any(M m) { return _mm256_movemask_ps(m) != 0; }

  static FASTINIT_INLINE M word_sign(W w) { return _mm256_castsi256_ps(w); }
  static FASTINIT_INLINE F word_value(W w) { return _mm256_cvtepi32_ps(w); }
  static FASTINIT_INLINE I word_top(W w) { return iand(w, iset(0x80000000u)); }

  static FASTINIT_INLINE F load(const float* from) { return _mm256_loadu_ps(from); }
  static FASTINIT_INLINE void store(float* to, F x) { _mm256_storeu_ps(to, x); }
  static FASTINIT_INLINE W word_load(const uint32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static FASTINIT_INLINE W word_iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static FASTINIT_INLINE int count(M m) { return _mm_popcnt_u32(set_of(m)); }
  static FASTINIT_INLINE void compress(uint32_t* to, M m, W w) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), pick_words(w, kCompress8.index[set_of(m)]));
  }

 private:
  static FASTINIT_INLINE unsigned set_of(M m) {
    return static_cast<unsigned>(_mm256_movemask_ps(m));
  }
};

// Words sit in the low halves of 64-bit lanes; the high halves are garbage and reach no result.
struct F64 : WordsAvx2 {
  using Real = double;
  using F = __m256d;
  using I = __m256i;
  using M = __m256d;
  static constexpr int kWidth = 4;

  static FASTINIT_INLINE F set(double x) { return _mm256_set1_pd(x); }
  static FASTINIT_INLINE I iset(uint64_t x) {
    return _mm256_set1_epi64x(static_cast<long long>(x));
  }
  static FASTINIT_INLINE F add(F a, F b) { return _mm256_add_pd(a, b); }
  static FASTINIT_INLINE F sub(F a, F b) { return _mm256_sub_pd(a, b); }
  static FASTINIT_INLINE F mul(F a, F b) { return _mm256_mul_pd(a, b); }
  static FASTINIT_INLINE F div(F a, F b) { return _mm256_div_pd(a, b); }
  static FASTINIT_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_pd(a, b, c); }
  static FASTINIT_INLINE F negative_fma(F a, F b, F c) { return _mm256_fnmadd_pd(a, b, c); }
  static FASTINIT_INLINE F sqrt(F a) { return _mm256_sqrt_pd(a); }
  static FASTINIT_INLINE I bits(F a) { return _mm256_castpd_si256(a); }
  static FASTINIT_INLINE F from_bits(I a) { return _mm256_castsi256_pd(a); }
  static FASTINIT_INLINE F negate(F a) { return _mm256_xor_pd(a, set(-0.0)); }
  static FASTINIT_INLINE F magnitude(F a) { return _mm256_andnot_pd(set(-0.0), a); }
  static FASTINIT_INLINE I isub(I a, I b) { return _mm256_sub_epi64(a, b); }
  static FASTINIT_INLINE I iand(I a, I b) { return _mm256_and_si256(a, b); }
  static FASTINIT_INLINE I ixor(I a, I b) { return _mm256_xor_si256(a, b); }
  static FASTINIT_INLINE M sign_of(I a) { return _mm256_castsi256_pd(a); }
  static FASTINIT_INLINE M sign_of_value(F a) { return a; }
  static FASTINIT_INLINE I exponent_part(I a) { return iand(a, iset(0xfff0000000000000ull)); }
  static FASTINIT_INLINE F exponent_value(I a) {
    const __m256i top = _mm256_srai_epi32(a, 20);  // the exponent, in the high half of each lane
    const __m256i odd = _mm256_permutevar8x32_epi32(top, _mm256_setr_epi32(1, 3, 5, 7, 1, 3, 5, 7));
    return _mm256_cvtepi32_pd(_mm256_castsi256_si128(odd));
  }
  // These instructions return their second operand unless the first is strictly beyond it.
  static FASTINIT_INLINE F at_least(F x, F lo) { return _mm256_max_pd(lo, x); }
  static FASTINIT_INLINE F at_most(F x, F hi) { return _mm256_min_pd(hi, x); }
  static FASTINIT_INLINE M greater(F a, F b) { return _mm256_cmp_pd(a, b, _CMP_GT_OQ); }
  static FASTINIT_INLINE F select(M m, F yes, F no) { return _mm256_blendv_pd(no, yes, m); }
  static FASTINIT_INLINE bool any(M m) { return _mm256_movemask_pd(m) != 0; }

  static FASTINIT_INLINE I word_to_top(W w) { return _mm256_slli_epi64(w, 32); }
  static FASTINIT_INLINE M word_sign(W w) { return _mm256_castsi256_pd(word_to_top(w)); }
  // 2^52 + w as a double is the bit pattern below; the subtraction is exact.
  static FASTINIT_INLINE F word_value_unsigned(W w) {
    const __m256i biased = _mm256_blend_epi32(w, iset(0x4330000000000000ull), 0xAA);
    return sub(from_bits(biased), set(0x1p52));
  }
  static FASTINIT_INLINE F word_value(W w) {
    const __m256i biased =
        _mm256_blend_epi32(word_xor(w, word_set(0x80000000u)), iset(0x4330000000000000ull), 0xAA);
    return sub(from_bits(biased), set(0x1p52 + 0x1p31));
  }
  static FASTINIT_INLINE I word_top(W w) { return iand(word_to_top(w), iset(1ull << 63)); }

  static FASTINIT_INLINE F load(const double* from) { return _mm256_loadu_pd(from); }
  static FASTINIT_INLINE void store(double* to, F x) { _mm256_storeu_pd(to, x); }
  static FASTINIT_INLINE W word_load(const uint32_t* from) {
    return _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static FASTINIT_INLINE W word_iota() { return _mm256_setr_epi64x(0, 1, 2, 3); }
  static FASTINIT_INLINE int count(M m) { return _mm_popcnt_u32(set_of(m)); }
  static FASTINIT_INLINE void compress(uint32_t* to, M m, W w) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_castsi256_si128(pick_words(w, kCompress4.index[set_of(m)])));
  }

 private:
  static FASTINIT_INLINE unsigned set_of(M m) {
    return static_cast<unsigned>(_mm256_movemask_pd(m));
  }
};

struct Lanes {
  using F32 = avx2::F32;
  using F64 = avx2::F64;
  using V = __m256i;
  static constexpr int kBlocks = 4, kParts = 1, kInterleave = 3;
  static constexpr int kRadiiAbreast = 4, kPointsAbreast = 3;
  static constexpr bool kUnitExact = true;

  static FASTINIT_INLINE V vset(uint64_t x) {
    return _mm256_set1_epi64x(static_cast<long long>(x));
  }
  static FASTINIT_INLINE V vorder_plain() { return _mm256_setr_epi64x(0, 1, 2, 3); }
  static FASTINIT_INLINE V vorder_interleaved() { return _mm256_setr_epi64x(0, 2, 1, 3); }
  static FASTINIT_INLINE V vadd(V a, V b) { return _mm256_add_epi64(a, b); }
  static FASTINIT_INLINE V vmul(V a, V b) { return _mm256_mul_epu32(a, b); }
  static FASTINIT_INLINE V vhigh(V a) { return _mm256_srli_epi64(a, 32); }
  static FASTINIT_INLINE V vxor(V a, V b) { return _mm256_xor_si256(a, b); }
  static FASTINIT_INLINE V vxor3(V a, V b, V c) { return vxor(a, vxor(b, c)); }

  template <int which>
  static FASTINIT_INLINE V halves(V a, V b) {
    return _mm256_castps_si256(
        _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), which));
  }
  static FASTINIT_INLINE V vkeys(uint32_t k0, uint32_t k1) {
    return halves<0x00>(_mm256_set1_epi32(static_cast<int>(k0)),
                        _mm256_set1_epi32(static_cast<int>(k1)));
  }
  static FASTINIT_INLINE void last_round(V p0, V p1, V x1, V x3, V keys, V& even, V& odd) {
    even = vxor(halves<0xDD>(p1, p0), vxor(halves<0x88>(x1, x3), keys));
    odd = halves<0x88>(p1, p0);
  }
  // One round of three vectors. In assembly because compilers reorder the keys and spill a third of
  // the state, where the sixteen registers are just enough.
  static FASTINIT_INLINE void round(V (&x0)[3], V (&x1)[3], V (&x2)[3], V (&x3)[3], V m0, V m1,
                                    const V& k0, const V& k1) {
    V t, u;
#define FASTINIT_MULTIPLY(g)             \
  "vpmuludq %[m0], %[p0" #g "], %[p0" #g \
  "]\n"                                  \
  "vpmuludq %[m1], %[p1" #g "], %[p1" #g \
  "]\n"                                  \
  "vpxor %[k0], %[x1" #g "], %[x1" #g    \
  "]\n"                                  \
  "vpxor %[k1], %[x3" #g "], %[x3" #g "]\n"
#define FASTINIT_MIX(g)              \
  "vpsrlq $32, %[p1" #g              \
  "], %[t]\n"                        \
  "vpsrlq $32, %[p0" #g              \
  "], %[u]\n"                        \
  "vpxor %[t], %[x1" #g "], %[x1" #g \
  "]\n"                              \
  "vpxor %[u], %[x3" #g "], %[x3" #g "]\n"
    asm(FASTINIT_MULTIPLY(0) FASTINIT_MULTIPLY(1) FASTINIT_MULTIPLY(2) FASTINIT_MIX(0)
            FASTINIT_MIX(1) FASTINIT_MIX(2)
        : [p00] "+x"(x0[0]), [x10] "+x"(x1[0]), [p10] "+x"(x2[0]), [x30] "+x"(x3[0]),
          [p01] "+x"(x0[1]), [x11] "+x"(x1[1]), [p11] "+x"(x2[1]), [x31] "+x"(x3[1]),
          [p02] "+x"(x0[2]), [x12] "+x"(x1[2]), [p12] "+x"(x2[2]), [x32] "+x"(x3[2]), [t] "=&x"(t),
          [u] "=&x"(u)
        : [m0] "x"(m0), [m1] "x"(m1), [k0] "m"(k0), [k1] "m"(k1));
#undef FASTINIT_MULTIPLY
#undef FASTINIT_MIX
    for (int g = 0; g < 3; ++g) {
      const V p0 = x0[g], p1 = x2[g];
      x0[g] = x1[g];
      x1[g] = p1;
      x2[g] = x3[g];
      x3[g] = p0;
    }
  }
  static FASTINIT_INLINE V word32(V v, int) { return v; }
  static FASTINIT_INLINE V word64(V x) { return x; }

  // Within 128 bits a packed vector holds a word of two blocks, then the next but one of both.
  static FASTINIT_INLINE V block_by_block(V pairs) { return _mm256_shuffle_epi32(pairs, 0xD8); }
  static FASTINIT_INLINE void store32(char* out, __m256i even, __m256i odd) {
    auto* to = reinterpret_cast<__m256i*>(out);
    const V first = _mm256_unpacklo_epi32(even, odd), second = _mm256_unpackhi_epi32(even, odd);
    _mm256_storeu_si256(to, _mm256_unpacklo_epi64(first, second));
    _mm256_storeu_si256(to + 1, _mm256_unpackhi_epi64(first, second));
  }
  static FASTINIT_INLINE void store16(char* out, __m256i even, __m256i odd) {
    const V both = _mm256_or_si256(even, _mm256_slli_epi32(odd, 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), block_by_block(both));
  }
  static FASTINIT_INLINE void store16_high(char* out, __m256i even, __m256i odd) {
    const V both = _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xAA);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), block_by_block(both));
  }
  static FASTINIT_INLINE void store8(char* out, __m256i even, __m256i odd) {
    const V both = block_by_block(_mm256_or_si256(even, _mm256_slli_epi32(odd, 8)));
    const V packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(both, both), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(packed));
  }
  static FASTINIT_INLINE void store64(char* out, __m256d a, __m256d b, __m256d c, __m256d d) {
    const __m256d ab_even = _mm256_unpacklo_pd(a, b), ab_odd = _mm256_unpackhi_pd(a, b);
    const __m256d cd_even = _mm256_unpacklo_pd(c, d), cd_odd = _mm256_unpackhi_pd(c, d);
    auto* to = reinterpret_cast<double*>(out);
    _mm256_storeu_pd(to, _mm256_permute2f128_pd(ab_even, cd_even, 0x20));
    _mm256_storeu_pd(to + 4, _mm256_permute2f128_pd(ab_odd, cd_odd, 0x20));
    _mm256_storeu_pd(to + 8, _mm256_permute2f128_pd(ab_even, cd_even, 0x31));
    _mm256_storeu_pd(to + 12, _mm256_permute2f128_pd(ab_odd, cd_odd, 0x31));
  }
};

}  // namespace fastinit::cpu::avx2
