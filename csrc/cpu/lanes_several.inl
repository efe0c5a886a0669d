// Several vectors of a lane type advanced side by side, one instruction at a time: where a chain of
// dependent instructions would leave pipes empty, and the next chain is too far away for the
// scheduler to see. Has the operations of core/lanes_scalar.h.

template <class L, int n>
struct Several {
  using Real = typename L::Real;
  static constexpr int kWidth = n * L::kWidth;
  struct F {
    typename L::F v[n];
  };
  struct I {
    typename L::I v[n];
  };
  struct M {
    typename L::M v[n];
  };
  struct W {
    typename L::W v[n];
  };

#define FASTINIT_EACH(Result, signature, expression) \
  static FASTINIT_INLINE Result signature {          \
    Result r;                                        \
    FASTINIT_UNROLL                                  \
    for (int k = 0; k < n; ++k) r.v[k] = expression; \
    return r;                                        \
  }
  FASTINIT_EACH(F, set(Real x), L::set(x))
  FASTINIT_EACH(F, add(F a, F b), L::add(a.v[k], b.v[k]))
  FASTINIT_EACH(F, sub(F a, F b), L::sub(a.v[k], b.v[k]))
  FASTINIT_EACH(F, mul(F a, F b), L::mul(a.v[k], b.v[k]))
  FASTINIT_EACH(F, div(F a, F b), L::div(a.v[k], b.v[k]))
  FASTINIT_EACH(F, fma(F a, F b, F c), L::fma(a.v[k], b.v[k], c.v[k]))
  FASTINIT_EACH(F, sqrt(F a), L::sqrt(a.v[k]))
  FASTINIT_EACH(I, bits(F a), L::bits(a.v[k]))
  FASTINIT_EACH(F, from_bits(I a), L::from_bits(a.v[k]))
  FASTINIT_EACH(I, isub(I a, I b), L::isub(a.v[k], b.v[k]))
  FASTINIT_EACH(I, ixor(I a, I b), L::ixor(a.v[k], b.v[k]))
  FASTINIT_EACH(M, sign_of(I a), L::sign_of(a.v[k]))
  FASTINIT_EACH(M, sign_of_value(F a), L::sign_of_value(a.v[k]))
  FASTINIT_EACH(I, exponent_part(I a), L::exponent_part(a.v[k]))
  FASTINIT_EACH(F, exponent_value(I a), L::exponent_value(a.v[k]))
  FASTINIT_EACH(F, at_least(F x, F lo), L::at_least(x.v[k], lo.v[k]))
  FASTINIT_EACH(F, at_most(F x, F hi), L::at_most(x.v[k], hi.v[k]))
  FASTINIT_EACH(F, select(M m, F yes, F no), L::select(m.v[k], yes.v[k], no.v[k]))
  FASTINIT_EACH(W, word_set(uint32_t w), L::word_set(w))
  FASTINIT_EACH(W, word_xor(W a, W b), L::word_xor(a.v[k], b.v[k]))
  FASTINIT_EACH(W, word_add(W a, W b), L::word_add(a.v[k], b.v[k]))
  FASTINIT_EACH(M, word_sign(W w), L::word_sign(w.v[k]))
  FASTINIT_EACH(F, word_value(W w), L::word_value(w.v[k]))
  FASTINIT_EACH(F, word_value_unsigned(W w), L::word_value_unsigned(w.v[k]))
  FASTINIT_EACH(I, word_top(W w), L::word_top(w.v[k]))
  FASTINIT_EACH(F, load(const Real* from), L::load(from + k * L::kWidth))
  template <class U>
  FASTINIT_EACH(I, iset(U x), L::iset(x))
  template <int bits>
  FASTINIT_EACH(W, word_shl(W a), L::template word_shl<bits>(a.v[k]))
  template <int bits>
  FASTINIT_EACH(W, word_shr(W a), L::template word_shr<bits>(a.v[k]))
#undef FASTINIT_EACH

  static FASTINIT_INLINE void store(Real* to, F x) {
    FASTINIT_UNROLL
    for (int k = 0; k < n; ++k) L::store(to + k * L::kWidth, x.v[k]);
  }
};
