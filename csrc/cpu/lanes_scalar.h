// The scalar capability: one block at a time, on any processor.
//
// Each capability supplies a struct Lanes with these names:
//   F32, F64      lane types for core/transforms.h
//   V             a vector of 64-bit lanes, one block each; the Philox state lives in the low
//   halves,
//                 the high halves hold garbage, which a 32 x 32 -> 64 multiply ignores
//   kBlocks       lanes of V;  kInterleave  state vectors advanced together
//   vpack(x, y)   the low halves of x and y side by side;  word32(v, part)  32-bit lane words of
//   one
//                 of the kParts parts of such a vector;  word64  the words of a state vector
//   vorder_*      which block each lane makes, so that the stores need the fewest shuffles:
//                 _interleaved for store32, _plain for the others
//   store_*       lane results -> memory in element order
#pragma once

#include "core/lanes_scalar.h"

namespace fastinit::cpu::scalar {

struct Lanes {
  using F32 = ScalarF32;
  using F64 = ScalarF64;
  using V = uint64_t;
  static constexpr int kBlocks = 1, kParts = 2, kInterleave = 1;

  static FASTINIT_INLINE V vset(uint64_t x) { return x; }
  static FASTINIT_INLINE V vorder_plain() { return 0; }
  static FASTINIT_INLINE V vorder_interleaved() { return 0; }
  static FASTINIT_INLINE V vadd(V a, V b) { return a + b; }
  static FASTINIT_INLINE V vmul(V a, V b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
  static FASTINIT_INLINE V vhigh(V a) { return a >> 32; }
  static FASTINIT_INLINE V vxor(V a, V b) { return a ^ b; }
  static FASTINIT_INLINE V vxor3(V a, V b, V c) { return a ^ b ^ c; }
  static FASTINIT_INLINE V vpack(V x, V y) { return (x & 0xffffffffu) | y << 32; }
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
