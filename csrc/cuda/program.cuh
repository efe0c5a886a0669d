// What a thread computes: a block of the stream -> four elements as they lie in memory.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "core/lanes_scalar.h"
#include "core/rounding.h"
#include "core/sample.h"
#include "cuda/plan.h"

#define FASTINIT_DEVICE __device__ __forceinline__

namespace fastinit::cuda {

// Four elements of `item` bytes, the first in the low bits of w[0].
template <int item>
struct Four {
  uint32_t w[item];
};

// The four elements that begin at element `p`, 1 <= p <= 3, of `first`, the rest from `second`.
template <int item>
FASTINIT_DEVICE Four<item> shifted(const Four<item>& first, const Four<item>& second, uint32_t p) {
  uint32_t w[2 * item];
#pragma unroll
  for (int k = 0; k < item; ++k) {
    w[k] = first.w[k];
    w[item + k] = second.w[k];
  }
  const auto funnel = [](uint32_t low, uint32_t high, uint32_t bits) {
    return bits == 0 ? low : low >> bits | high << (32 - bits);
  };
  Four<item> out;
  if constexpr (item == 1) {
    out.w[0] = funnel(w[0], w[1], 8 * p);
  } else {
    constexpr int half = item / 2;  // words of two elements
#pragma unroll
    for (int k = 0; k < item + half; ++k) w[k] = p & 2 ? w[k + half] : w[k];
#pragma unroll
    for (int k = 0; k < item; ++k) {
      if constexpr (item == 2)
        out.w[k] = funnel(w[k], w[k + 1], 16 * (p & 1));
      else
        out.w[k] = p & 1 ? w[k + item / 4] : w[k];
    }
  }
  return out;
}

FASTINIT_HD constexpr int bytes_of(DType dtype) {
  return dtype == DType::F64                            ? 8
         : dtype == DType::F16 || dtype == DType::BF16  ? 2
         : dtype == DType::E4M3 || dtype == DType::E5M2 ? 1
                                                        : 4;
}

// Two samples rounded to 16 bits each, the first in the low half. The processor's conversions round
// to nearest even and keep subnormals, as core/rounding.h does.
template <DType dtype>
FASTINIT_DEVICE uint32_t pack16(float first, float second) {
#if FASTINIT_DEVICE_PASS && __CUDA_ARCH__ >= 800
  uint32_t both;
  if constexpr (dtype == DType::BF16)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
#else
  if constexpr (dtype == DType::BF16)
    return round_bf16<ScalarF32>(first) | round_bf16<ScalarF32>(second) << 16;
  else
    return round_small<ScalarF32, FormatF16>(first) | round_small<ScalarF32, FormatF16>(second)
                                                          << 16;
#endif
}

template <DType dtype>
FASTINIT_DEVICE uint32_t pack8(float first, float second) {
#if FASTINIT_DEVICE_PASS && __CUDA_ARCH__ >= 890
  uint16_t both;
  if constexpr (dtype == DType::E4M3)
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(second), "f"(first));
  else
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(both) : "f"(second), "f"(first));
  return both;
#else
  using Format = std::conditional_t<dtype == DType::E4M3, FormatE4M3, FormatE5M2>;
  return round_small<ScalarF32, Format>(first) | round_small<ScalarF32, Format>(second) << 8;
#endif
}

template <DType dtype>
FASTINIT_DEVICE Four<bytes_of(dtype)> pack(const float (&v)[4]) {
  if constexpr (bytes_of(dtype) == 4)
    return {{ScalarF32::bits(v[0]), ScalarF32::bits(v[1]), ScalarF32::bits(v[2]),
             ScalarF32::bits(v[3])}};
  else if constexpr (bytes_of(dtype) == 2)
    return {{pack16<dtype>(v[0], v[1]), pack16<dtype>(v[2], v[3])}};
  else
    return {{pack8<dtype>(v[0], v[1]) | pack8<dtype>(v[2], v[3]) << 16}};
}

template <DType dtype>
FASTINIT_DEVICE Four<8> pack(const double (&v)[4]) {
  Four<8> out;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint64_t bits = ScalarF64::bits(v[k]);
    out.w[2 * k] = static_cast<uint32_t>(bits);
    out.w[2 * k + 1] = static_cast<uint32_t>(bits >> 32);
  }
  return out;
}

// Whether samples are clamped: decided when compiling, or asked of the task.
enum class Clamp { No, Yes, Ask };

// Random fills. `Keys` and `Args` are references where they lie in constant memory (a kernel
// parameter), values where they come from a table.
template <Kind kind_, DType dtype, Clamp clamp_>
struct Random {
  static constexpr bool wide = dtype == DType::F64, constant = false;
  static constexpr int item = bytes_of(dtype), unit = unit_elements(item, false);
  using L = std::conditional_t<wide, ScalarF64, ScalarF32>;
  using Args = TransformArgs<typename L::Real>;

  const Args& args;
  const PhiloxKeys& value_keys;
  const PhiloxKeys& low_keys;  // read in double only
  const bool clamped;

  struct High {
    PhiloxHigh value, low;
  };
  FASTINIT_DEVICE High high(uint32_t counter_high) const {
    High h;
    h.value = philox_high(value_keys, counter_high);
    if constexpr (wide) h.low = philox_high(low_keys, counter_high);
    return h;
  }

  FASTINIT_DEVICE Four<item> make(const High& h, uint32_t counter) const {
    const Words4 words = philox_block(value_keys, h.value, counter);
    if constexpr (kind_ == Kind::Words) {
      return {{words.w[0], words.w[1], words.w[2], words.w[3]}};
    } else {
      Words4 low = words;
      if constexpr (wide) low = philox_block(low_keys, h.low, counter);
      typename L::F v[4];
#pragma unroll
      for (int k = 0; k < 4; k += 2)
        sample_pair<L, kind_>(args, words.w[k], words.w[k + 1], low.w[k], low.w[k + 1], v[k],
                              v[k + 1]);
      if (clamp_ == Clamp::Yes || (clamp_ == Clamp::Ask && clamped)) {
#pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = clamp<L>(args, v[k]);
      }
      return pack<dtype>(v);
    }
  }
};

// Fills with one value: `pattern` repeats its bytes to 16.
template <int item_>
struct Repeat {
  static constexpr bool constant = true;
  static constexpr int item = item_, unit = unit_elements(item, true);
  uint4 pattern;

  explicit FASTINIT_DEVICE Repeat(const Transform& t) {
    uint8_t bytes[16];
#pragma unroll
    for (int k = 0; k < 16; ++k) bytes[k] = t.pattern[k % item];
    memcpy(&pattern, bytes, 16);
  }

  struct High {};
  FASTINIT_DEVICE High high(uint32_t) const { return {}; }
  FASTINIT_DEVICE Four<item> make(const High&, uint32_t) const {
    const uint32_t w[4] = {pattern.x, pattern.y, pattern.z, pattern.w};
    Four<item> out;
#pragma unroll
    for (int k = 0; k < item; ++k) out.w[k] = w[k % 4];
    return out;
  }
};

}  // namespace fastinit::cuda
