// Packed4: four samples as they lie in memory, rounded, packed, clamped in pairs, stored.
#pragma once

#include <type_traits>

#include "core/lanes_scalar.h"
#include "core/rounding.h"
#include "core/task.h"
#include "cuda/macros.h"

namespace fastinit::cuda {

// Stores to global memory, said so: the compiler does not always see it.
FASTINIT_DEVICE void store16(char* to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
#if FASTINIT_DEVICE_PASS
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(a), "r"(b), "r"(c), "r"(d));
#else
  *reinterpret_cast<uint4*>(to) = make_uint4(a, b, c, d);
#endif
}

// One element, as an unsigned integer of its size or two words.
template <class Item>
FASTINIT_DEVICE void store_item(char* to, Item item) {
#if FASTINIT_DEVICE_PASS
  const size_t at = __cvta_generic_to_global(to);
  if constexpr (sizeof(Item) == 1)
    asm volatile("st.global.u8 [%0], %1;" ::"l"(at), "r"(uint32_t{item}));
  if constexpr (sizeof(Item) == 2) asm volatile("st.global.u16 [%0], %1;" ::"l"(at), "h"(item));
  if constexpr (sizeof(Item) == 4) asm volatile("st.global.u32 [%0], %1;" ::"l"(at), "r"(item));
  if constexpr (sizeof(Item) == 8)
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(at), "r"(item.x), "r"(item.y));
#else
  *reinterpret_cast<Item*>(to) = item;
#endif
}

// Four elements of so many bytes each, the first in the low bits of w[0].
template <int bytes>
struct Packed4 {
  uint32_t w[bytes];
};

// The four elements that begin at element `p`, 1 <= p <= 3, of `first`, the rest from `second`.
template <int bytes>
FASTINIT_DEVICE Packed4<bytes> shift_packed(const Packed4<bytes>& first,
                                            const Packed4<bytes>& second, uint32_t p) {
  uint32_t w[2 * bytes];
#pragma unroll
  for (int k = 0; k < bytes; ++k) {
    w[k] = first.w[k];
    w[bytes + k] = second.w[k];
  }
  const auto funnel = [](uint32_t low, uint32_t high, uint32_t bits) {
    return bits == 0 ? low : low >> bits | high << (32 - bits);
  };
  Packed4<bytes> out;
  if constexpr (bytes == 1) {
    out.w[0] = funnel(w[0], w[1], 8 * p);
  } else {
    constexpr int half = bytes / 2;  // words of two elements
#pragma unroll
    for (int k = 0; k < bytes + half; ++k) w[k] = p & 2 ? w[k + half] : w[k];
#pragma unroll
    for (int k = 0; k < bytes; ++k) {
      if constexpr (bytes == 2)
        out.w[k] = funnel(w[k], w[k + 1], 16 * (p & 1));
      else
        out.w[k] = p & 1 ? w[k + bytes / 4] : w[k];
    }
  }
  return out;
}

// Two samples rounded to 16 bits each, the first in the low half. The processor's conversions round
// to nearest even and keep subnormals, as core/rounding.h does.
template <DType dtype>
FASTINIT_DEVICE uint32_t pack16(float first, float second) {
  static_assert(dtype == DType::BF16 || dtype == DType::F16);
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
    return round_small<ScalarF32, DType::F16>(first) | round_small<ScalarF32, DType::F16>(second)
                                                           << 16;
#endif
}

// Whether samples of 16 bits are clamped in pairs when they are packed. The bounds are values of
// the type and rounding is monotone, so that the result is the same.
#if FASTINIT_DEVICE_PASS && __CUDA_ARCH__ < 800
constexpr bool kClampsPairs = false;
#else
constexpr bool kClampsPairs = true;
#endif

// A pair between two bounds, each given twice. Of the zeros the negative one is less.
template <DType dtype>
FASTINIT_DEVICE uint32_t clamp_pair(uint32_t pair, uint32_t lo, uint32_t hi) {
#if FASTINIT_DEVICE_PASS && __CUDA_ARCH__ >= 800
  if constexpr (dtype == DType::BF16)
    asm("max.bf16x2 %0, %0, %1;\n\tmin.bf16x2 %0, %0, %2;" : "+r"(pair) : "r"(lo), "r"(hi));
  else
    asm("max.f16x2 %0, %0, %1;\n\tmin.f16x2 %0, %0, %2;" : "+r"(pair) : "r"(lo), "r"(hi));
  return pair;
#else
  // Numbers in the order of the values.
  const auto rank = [](uint32_t bits) { return bits & 0x8000u ? 0xffffu - bits : 0x8000u + bits; };
  uint32_t out = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    uint32_t x = pair >> shift & 0xffffu;
    if (rank(x) < rank(lo & 0xffffu)) x = lo & 0xffffu;
    if (rank(x) > rank(hi & 0xffffu)) x = hi & 0xffffu;
    out |= x << shift;
  }
  return out;
#endif
}

template <DType dtype>
FASTINIT_DEVICE uint32_t pack8(float first, float second) {
  static_assert(dtype == DType::E4M3 || dtype == DType::E5M2);
#if FASTINIT_DEVICE_PASS && __CUDA_ARCH__ >= 890
  uint16_t both;
  if constexpr (dtype == DType::E4M3)
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(second), "f"(first));
  else
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(both) : "f"(second), "f"(first));
  return both;
#else
  return round_small<ScalarF32, dtype>(first) | round_small<ScalarF32, dtype>(second) << 8;
#endif
}

template <DType dtype>
FASTINIT_DEVICE Packed4<item_size(dtype)> pack(const float (&v)[4]) {
  if constexpr (item_size(dtype) == 4)
    return {{ScalarF32::bits(v[0]), ScalarF32::bits(v[1]), ScalarF32::bits(v[2]),
             ScalarF32::bits(v[3])}};
  else if constexpr (item_size(dtype) == 2)
    return {{pack16<dtype>(v[0], v[1]), pack16<dtype>(v[2], v[3])}};
  else
    return {{pack8<dtype>(v[0], v[1]) | pack8<dtype>(v[2], v[3]) << 16}};
}

template <DType dtype>
FASTINIT_DEVICE Packed4<8> pack(const double (&v)[4]) {
  Packed4<8> out;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint64_t bits = ScalarF64::bits(v[k]);
    out.w[2 * k] = static_cast<uint32_t>(bits);
    out.w[2 * k + 1] = static_cast<uint32_t>(bits >> 32);
  }
  return out;
}

// Element `k` of four, aligned to itself.
template <int bytes>
FASTINIT_DEVICE void store_aligned(char* to, const Packed4<bytes>& v, int k) {
  const uint32_t bits = v.w[k * bytes / 4] >> (8 * (k * bytes % 4));
  if constexpr (bytes == 1) store_item(to, static_cast<uint8_t>(bits));
  if constexpr (bytes == 2) store_item(to, static_cast<uint16_t>(bits));
  if constexpr (bytes == 4) store_item(to, bits);
  if constexpr (bytes == 8) store_item(to, make_uint2(bits, v.w[2 * k + 1]));
}

// Element `k` of four; byte by byte where memory is not aligned to it.
template <int bytes>
FASTINIT_DEVICE void store_element(char* to, const Packed4<bytes>& v, int k) {
  constexpr int part = bytes < 4 ? bytes : 4;  // bytes that are stored at once
#pragma unroll
  for (int j = 0; j < bytes / part; ++j, to += part) {
    const uint32_t bits = v.w[(k * bytes + j * part) / 4] >> (8 * (k * bytes % 4));
    if (reinterpret_cast<uintptr_t>(to) % part == 0) {
      if constexpr (part == 1) *to = static_cast<char>(bits);
      if constexpr (part == 2) *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(bits);
      if constexpr (part == 4) *reinterpret_cast<uint32_t*>(to) = bits;
    } else {
#pragma unroll
      for (int b = 0; b < part; ++b) to[b] = static_cast<char>(bits >> (8 * b));
    }
  }
}

// Four elements to shared memory.
template <int bytes>
FASTINIT_DEVICE void put_packed(char* to, const Packed4<bytes>& v) {
  if constexpr (bytes == 1) *reinterpret_cast<uint32_t*>(to) = v.w[0];
  if constexpr (bytes == 2) *reinterpret_cast<uint2*>(to) = make_uint2(v.w[0], v.w[1]);
  if constexpr (bytes >= 4) {
#pragma unroll
    for (int k = 0; k < bytes; k += 4)
      *reinterpret_cast<uint4*>(to + 4 * k) =
          make_uint4(v.w[k], v.w[k + 1], v.w[k + 2], v.w[k + 3]);
  }
}

// Four elements, contiguous and aligned to their size or 16 bytes.
template <int bytes>
FASTINIT_DEVICE void store_packed(char* to, const Packed4<bytes>& v) {
  if constexpr (bytes == 1) *reinterpret_cast<uint32_t*>(to) = v.w[0];
  if constexpr (bytes == 2) *reinterpret_cast<uint2*>(to) = make_uint2(v.w[0], v.w[1]);
  if constexpr (bytes >= 4) {
#pragma unroll
    for (int k = 0; k < bytes; k += 4)
      store16(to + 4 * k, v.w[k], v.w[k + 1], v.w[k + 2], v.w[k + 3]);
  }
}

}  // namespace fastinit::cuda
