// float32 -> 16- and 8-bit floating types by integer operations: round to nearest even, subnormals
// kept. Values are already clamped into the finite range of the type, so nothing overflows.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"

namespace fastinit {

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

// Bits of a type with fewer exponents than float in the low bits of each 32-bit lane.
template <class L, DType dtype>
FASTINIT_HD FASTINIT_INLINE typename L::I round_small(typename L::F x) {
  constexpr int mantissa = format_of(dtype).precision - 1;
  constexpr int min_exponent = format_of(dtype).min_exponent;
  constexpr int drop = 23 - mantissa;
  constexpr uint32_t rebias = static_cast<uint32_t>(min_exponent - 1 + 127) << mantissa;
  const auto i = L::bits(x);
  const auto sign = L::iand(i, L::iset(0x80000000u));
  const auto magnitude = L::ixor(i, sign);
  const auto odd = L::iand(L::template ishr<drop>(magnitude), L::iset(1));
  const auto rounded = L::iadd(magnitude, L::iadd(odd, L::iset((1u << (drop - 1)) - 1)));
  const auto normal = L::isub(L::template ishr<drop>(rounded), L::iset(rebias));
  // Adding a power of two whose last place is the subnormal spacing rounds to that spacing.
  constexpr uint32_t magic = float_bits_of_power(min_exponent - mantissa + 23);
  const auto shifted = L::add(L::from_bits(magnitude), L::from_bits(L::iset(magic)));
  const auto subnormal = L::isub(L::bits(shifted), L::iset(magic));
  const auto is_small = L::sign_of(L::isub(magnitude, L::iset(float_bits_of_power(min_exponent))));
  return L::ior(L::iselect(is_small, subnormal, normal),
                L::template ishr<32 - 8 * item_size(dtype)>(sign));
}

}  // namespace fastinit
