// The types that elements have in memory, and what is to be known of each: once, for every device.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastinit {

// Word: 32 bits of the stream as they are. Bytes: of a constant, whose size its task knows.
enum class DType : uint8_t { F32, F64, F16, BF16, E4M3, E5M2, Word, Bytes };

// A binary floating type; all zeros of what is none.
struct Format {
  int item_size;     // bytes of an element
  int precision;     // significand bits, the leading one included
  int min_exponent;  // of the smallest normal number
  double max;        // largest finite value
};

FASTINIT_HD FASTINIT_INLINE constexpr Format format_of(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return {4, 24, -126, 0x1.fffffep+127};
    case DType::F64:
      return {8, 53, -1022, 0x1.fffffffffffffp+1023};
    case DType::F16:
      return {2, 11, -14, 65504.0};
    case DType::BF16:
      return {2, 8, -126, 0x1.fep+127};
    case DType::E4M3:
      return {1, 4, -6, 448.0};
    case DType::E5M2:
      return {1, 3, -14, 57344.0};
    case DType::Word:
      return {4, 0, 0, 0};
    case DType::Bytes:
      return {};
  }
  return {};
}

FASTINIT_HD FASTINIT_INLINE constexpr int item_size(DType dtype) {
  return format_of(dtype).item_size;
}

// The type that samples are computed in.
FASTINIT_HD FASTINIT_INLINE constexpr DType compute_dtype(DType dtype) {
  return dtype == DType::F64 ? DType::F64 : DType::F32;
}

}  // namespace fastinit
