// The scalar capability: one block at a time, on any processor.
//
// Each capability supplies a struct Lanes with these names:
//   F32, F64      lane types for core/transforms.h, which also load, store, count and compress
//   V             a vector of 64-bit lanes, one block each; the Philox state lives in the low
//                 halves, the high halves hold garbage, which a 32 x 32 -> 64 multiply ignores
//   kBlocks       lanes of V;  kInterleave  state vectors advanced together
//   kRadiiAbreast, kPointsAbreast  vectors of a normal's two passes computed side by side
//   kUnitExact    whether uniforms take the short form; those that cannot run scalar
//   last_round    the last Philox round, its four words packed into two vectors of 32-bit lanes, in
//                 an order of the capability's own that its stores undo;  vkeys  the keys it takes
//   word32(v, part)  the lane words of one of the kParts parts of such a vector
//   word64        the words of a state vector
//   vorder_*      which block each lane makes, so that the stores need the fewest shuffles:
//                 _interleaved for store32, _plain for the others
//   round         a Philox round of kInterleave vectors, where the plain one (words.inl) is slow
//   store_*       lane results -> memory in element order
#pragma once

#include "core/lanes_scalar.h"

namespace fastinit::cpu::scalar {

template <class Core>
struct Memory : Core {
  using Real = typename Core::Real;
  static FASTINIT_INLINE Real load(const Real* from) { return *from; }
  static FASTINIT_INLINE void store(Real* to, Real x) { *to = x; }
  static FASTINIT_INLINE uint32_t word_load(const uint32_t* from) { return *from; }
  static FASTINIT_INLINE uint32_t word_iota() { return 0; }
  // The words of the lanes in a set, in order, to memory that takes a whole vector.
  static FASTINIT_INLINE void compress(uint32_t* to, bool set, uint32_t w) {
    if (set) *to = w;
  }
  static FASTINIT_INLINE int count(bool set) { return set; }
};

struct Lanes {
  using F32 = Memory<ScalarF32>;
  using F64 = Memory<ScalarF64>;
  using V = uint64_t;
  static constexpr int kBlocks = 1, kParts = 2, kInterleave = 1;
  static constexpr int kRadiiAbreast = 1, kPointsAbreast = 1;
  static constexpr bool kUnitExact = false;

  static FASTINIT_INLINE V vset(uint64_t x) { return x; }
  static FASTINIT_INLINE V vorder_plain() { return 0; }
  static FASTINIT_INLINE V vorder_interleaved() { return 0; }
  static FASTINIT_INLINE V vadd(V a, V b) { return a + b; }
  static FASTINIT_INLINE V vmul(V a, V b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
  static FASTINIT_INLINE V vhigh(V a) { return a >> 32; }
  static FASTINIT_INLINE V vxor(V a, V b) { return a ^ b; }
  static FASTINIT_INLINE V vxor3(V a, V b, V c) { return a ^ b ^ c; }
  static FASTINIT_INLINE V vpack(V x, V y) { return (x & 0xffffffffu) | y << 32; }
  static FASTINIT_INLINE V vkeys(uint32_t k0, uint32_t k1) { return vpack(k0, k1); }
  static FASTINIT_INLINE void last_round(V p0, V p1, V x1, V x3, V keys, V& even, V& odd) {
    even = vpack(vhigh(p1), vhigh(p0)) ^ vpack(x1, x3) ^ keys;
    odd = vpack(p1, p0);
  }
  static FASTINIT_INLINE uint32_t word32(V v, int part) {
    return static_cast<uint32_t>(v >> (32 * part));
  }
  static FASTINIT_INLINE uint32_t word64(V x) { return static_cast<uint32_t>(x); }

  // Two vectors of elements 2k and 2k + 1, interleaved.
  static FASTINIT_INLINE void store32(char* out, uint32_t even, uint32_t odd) {
    memcpy(out, &even, 4);
    memcpy(out + 4, &odd, 4);
  }
  static FASTINIT_INLINE void store16(char* out, uint32_t even, uint32_t odd) {
    const uint32_t both = even | odd << 16;
    memcpy(out, &both, 4);
  }
  static FASTINIT_INLINE void store16_high(char* out, uint32_t even, uint32_t odd) {
    store16(out, even >> 16, odd >> 16);
  }
  static FASTINIT_INLINE void store8(char* out, uint32_t even, uint32_t odd) {
    const uint16_t both = static_cast<uint16_t>(even | odd << 8);
    memcpy(out, &both, 2);
  }
  static FASTINIT_INLINE void store64(char* out, double a, double b, double c, double d) {
    const double all[4] = {a, b, c, d};
    memcpy(out, all, sizeof all);
  }
};

}  // namespace fastinit::cpu::scalar
