// Division of indices on the device, which has no 64-bit division: the compiler's is a subroutine.
// A product with the divisor's reciprocal and one correction instead.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastinit::cuda {

// Dividends and divisors are below 2^52.
struct FastDivisor {
  uint64_t value;
  double reciprocal;
};
inline FastDivisor fast_divisor(uint64_t value) {
  return {value, 1.0 / static_cast<double>(value)};
}

struct DivMod {
  uint64_t quotient, remainder;
};
FASTINIT_HD FASTINIT_INLINE DivMod divmod(uint64_t a, const FastDivisor& by) {
  DivMod d;
  d.quotient = static_cast<uint64_t>(static_cast<double>(a) * by.reciprocal);
  d.remainder = a - d.quotient * by.value;
  // Three roundings, of a quotient below 2^52: off by one at most, either way.
  if (static_cast<int64_t>(d.remainder) < 0) {
    --d.quotient;
    d.remainder += by.value;
  } else if (d.remainder >= by.value) {
    ++d.quotient;
    d.remainder -= by.value;
  }
  return d;
}

}  // namespace fastinit::cuda
