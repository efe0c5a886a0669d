// float32 -> 16- and 8-bit floating types by integer operations: round to nearest even, subnormals
// kept. Values are already clamped into the finite range of the type, so nothing overflows.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastinit {

// A binary floating type by its mantissa bits, smallest normal exponent and total bits.
template <int mantissa_, int min_exponent_, int bits_>
struct SmallFormat {
  static constexpr int kMantissa = mantissa_, kMinExponent = min_exponent_, kBits = bits_;
};
using FormatF16 = SmallFormat<10, -14, 16>;
using FormatE4M3 = SmallFormat<3, -6, 8>;
using FormatE5M2 = SmallFormat<2, -14, 8>;

FASTINIT_HD FASTINIT_INLINE constexpr uint32_t float_bits_of_power(int exponent) {
  return static_cast<uint32_t>(exponent + 127) << 23;
}

// bfloat16 bits in the high half of each 32-bit lane, over garbage.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::I round_bf16_high(typename L::F x) {
  const auto i = L::bits(x);
  const auto odd = L::iand(L::template ishr<16>(i), L::iset(1));
  return L::iadd(i, L::iadd(odd, L::iset(0x7fff)));
}

// bfloat16 bits in the low half of each 32-bit lane.
template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::I round_bf16(typename L::F x) {
  return L::template ishr<16>(round_bf16_high<L>(x));
}

// Bits of a small format in the low bits of each 32-bit lane.
template <class L, class Format>
FASTINIT_HD FASTINIT_INLINE typename L::I round_small(typename L::F x) {
  constexpr int drop = 23 - Format::kMantissa;
  constexpr uint32_t rebias = static_cast<uint32_t>(Format::kMinExponent - 1 + 127)
                              << Format::kMantissa;
  const auto i = L::bits(x);
  const auto sign = L::iand(i, L::iset(0x80000000u));
  const auto magnitude = L::ixor(i, sign);
  const auto odd = L::iand(L::template ishr<drop>(magnitude), L::iset(1));
  const auto rounded = L::iadd(magnitude, L::iadd(odd, L::iset((1u << (drop - 1)) - 1)));
  const auto normal = L::isub(L::template ishr<drop>(rounded), L::iset(rebias));
  // Adding a power of two whose last place is the subnormal spacing rounds to that spacing.
  constexpr uint32_t magic = float_bits_of_power(Format::kMinExponent - Format::kMantissa + 23);
  const auto shifted = L::add(L::from_bits(magnitude), L::from_bits(L::iset(magic)));
  const auto subnormal = L::isub(L::bits(shifted), L::iset(magic));
  const auto is_small =
      L::sign_of(L::isub(magnitude, L::iset(float_bits_of_power(Format::kMinExponent))));
  return L::ior(L::iselect(is_small, subnormal, normal),
                L::template ishr<32 - Format::kBits>(sign));
}

}  // namespace fastinit
