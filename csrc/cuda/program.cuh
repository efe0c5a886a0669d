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

// Element `k` of four; byte by byte where memory is not aligned to it.
template <int item>
FASTINIT_DEVICE void store_element(char* to, const Four<item>& v, int k) {
  constexpr int part = item < 4 ? item : 4;  // bytes that are stored at once
#pragma unroll
  for (int j = 0; j < item / part; ++j, to += part) {
    const uint32_t bits = v.w[(k * item + j * part) / 4] >> (8 * (k * item % 4));
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

// Four elements, contiguous and aligned to their size or 16 bytes.
template <int item>
FASTINIT_DEVICE void store_four(char* to, const Four<item>& v) {
  if constexpr (item == 1) *reinterpret_cast<uint32_t*>(to) = v.w[0];
  if constexpr (item == 2) *reinterpret_cast<uint2*>(to) = make_uint2(v.w[0], v.w[1]);
  if constexpr (item >= 4) {
#pragma unroll
    for (int k = 0; k < item; k += 4)
      *reinterpret_cast<uint4*>(to + 4 * k) =
          make_uint4(v.w[k], v.w[k + 1], v.w[k + 2], v.w[k + 3]);
  }
}

// Where all is known when compiling, a block is four elements as they lie in memory.
template <int item_>
struct Packed {
  using Block = Four<item_>;
  static FASTINIT_DEVICE constexpr int item() { return item_; }
  static FASTINIT_DEVICE void store(char* to, const Block& block) { store_four(to, block); }
  static FASTINIT_DEVICE void store_one(char* to, const Block& block, int k) {
    store_element(to, block, k);
  }
};

// Constants of the two streams of a random fill. `low` is read in double only.
struct Streams {
  const PhiloxKeys& value;
  const PhiloxKeys& low;
};
template <bool wide>
struct StreamsHigh {
  PhiloxHigh value, low;

  explicit FASTINIT_DEVICE StreamsHigh(const Streams& s, uint32_t counter_high)
      : value(philox_high(s.value, counter_high)), low(value) {
    if constexpr (wide) low = philox_high(s.low, counter_high);
  }
};

// Whether samples are clamped: decided when compiling, or asked of the task.
enum class Clamp { No, Yes, Ask };

template <DType dtype>
FASTINIT_DEVICE const auto& args_of(const Transform& t) {
  if constexpr (dtype == DType::F64)
    return t.f64;
  else
    return t.f32;
}

// Random fills of one kind and type.
template <Kind kind, DType dtype, Clamp clamp_>
struct Random : Packed<bytes_of(dtype)> {
  static constexpr bool wide = dtype == DType::F64, constant = false;
  static constexpr int unit = unit_elements(bytes_of(dtype), false);
  using L = std::conditional_t<wide, ScalarF64, ScalarF32>;
  using Args = TransformArgs<typename L::Real>;
  using Block = Four<bytes_of(dtype)>;
  using High = StreamsHigh<wide>;

  const Args& args;
  const Streams streams;
  const bool clamped;

  FASTINIT_DEVICE Random(const Args& a, const PhiloxKeys& value, const PhiloxKeys& low, bool asked)
      : args(a), streams{value, low}, clamped(asked) {}

  FASTINIT_DEVICE High high(uint32_t counter_high) const { return High(streams, counter_high); }

  FASTINIT_DEVICE Block make(const High& h, uint32_t counter) const {
    const Words4 words = philox_block(streams.value, h.value, counter);
    if constexpr (kind == Kind::Words) {
      return {{words.w[0], words.w[1], words.w[2], words.w[3]}};
    } else {
      Words4 low = words;
      if constexpr (wide) low = philox_block(streams.low, h.low, counter);
      typename L::F v[4];
#pragma unroll
      for (int k = 0; k < 4; k += 2)
        sample_pair<L, kind>(args, words.w[k], words.w[k + 1], low.w[k], low.w[k + 1], v[k],
                             v[k + 1]);
      if (clamp_ == Clamp::Yes || (clamp_ == Clamp::Ask && clamped)) {
#pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = clamp<L>(args, v[k]);
      }
      return pack<dtype>(v);
    }
  }
};

template <class L, Kind kind, class Real>
FASTINIT_DEVICE void sample_all(const TransformArgs<Real>& args, const Words4& words,
                                const Words4& low, Real (&v)[4]) {
  if constexpr (!is_double<L> || kind <= Kind::Narrow) {
#pragma unroll
    for (int k = 0; k < 4; k += 2)
      sample_pair<L, kind>(args, words.w[k], words.w[k + 1], low.w[k], low.w[k + 1], v[k],
                           v[k + 1]);
  } else {
    // Long in double: one sample at a time, the registers moving on.
    uint32_t w[4] = {words.w[0], words.w[1], words.w[2], words.w[3]};
    uint32_t l[4] = {low.w[0], low.w[1], low.w[2], low.w[3]};
#pragma unroll 1
    for (int k = 0; k < 4; ++k) {
      const Real x = sample<L, kind>(args, w[0], l[0]);
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        w[j] = w[j + 1];
        l[j] = l[j + 1];
        v[j] = v[j + 1];
      }
      v[3] = x;
    }
  }
}

// Four samples of a task of any kind, before rounding. A function of its own, and one that reads all
// it needs itself: inlined, it would have the compiler hold the constants of all kinds in registers.
template <bool wide>
__device__ __noinline__ Four<wide ? 8 : 4> various_samples(const Record& r, uint64_t block) {
  using L = std::conditional_t<wide, ScalarF64, ScalarF32>;
  const Words4 words = fastinit::block(r.key, block, r.purpose);
  Words4 low = words;
  if constexpr (wide) low = fastinit::block(r.key, block, Purpose::Low);
  const auto& args = args_of<wide ? DType::F64 : DType::F32>(r.transform);
  typename L::Real v[4] = {};
  switch (r.transform.kind) {
    case Kind::Uniform:
      sample_all<L, Kind::Uniform>(args, words, low, v);
      break;
    case Kind::Normal:
      sample_all<L, Kind::Normal>(args, words, low, v);
      break;
    case Kind::Narrow:
      sample_all<L, Kind::Narrow>(args, words, low, v);
      break;
    case Kind::Central:
      sample_all<L, Kind::Central>(args, words, low, v);
      break;
    case Kind::Tail:
      sample_all<L, Kind::Tail>(args, words, low, v);
      break;
    default:
      sample_all<L, Kind::Far>(args, words, low, v);
      break;
  }
  if (r.transform.clamped) {
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = clamp<L>(args, v[k]);
  }
  return pack<wide ? DType::F64 : DType::F32>(v);
}

// Random fills whose kind and type are asked at every block: one piece of code for the slow ones,
// the branches of the truncated normal, and the rare ones. A block is four samples before rounding.
template <bool wide>
struct Various {
  static constexpr bool constant = false;
  static constexpr int unit = 4;
  using Block = Four<wide ? 8 : 4>;
  struct High {
    uint32_t word;
  };

  const Record& record;

  FASTINIT_DEVICE int item() const {
    if constexpr (wide) return 8;
    return record.transform.item_size;
  }
  FASTINIT_DEVICE High high(uint32_t counter_high) const { return {counter_high}; }
  FASTINIT_DEVICE Block make(const High& h, uint32_t counter) const {
    return various_samples<wide>(record, static_cast<uint64_t>(h.word) << 32 | counter);
  }

  // Calls f with the elements as they lie in memory.
  template <class F>
  FASTINIT_DEVICE void with_elements(const Block& block, const F& f) const {
    if constexpr (wide) {
      f(block);
    } else {
      float v[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = ScalarF32::from_bits(block.w[k]);
      switch (record.transform.dtype) {
        case DType::F16:
          return f(pack<DType::F16>(v));
        case DType::BF16:
          return f(pack<DType::BF16>(v));
        case DType::E4M3:
          return f(pack<DType::E4M3>(v));
        case DType::E5M2:
          return f(pack<DType::E5M2>(v));
        default:
          return f(block);
      }
    }
  }
  FASTINIT_DEVICE void store(char* to, const Block& block) const {
    with_elements(block, [=](const auto& four) { store_four(to, four); });
  }
  FASTINIT_DEVICE void store_one(char* to, const Block& block, int k) const {
    with_elements(block, [=](const auto& four) { store_element(to, four, k); });
  }
};

// Fills with one value: `pattern` repeats its bytes to 16.
template <int item_>
struct Repeat : Packed<item_> {
  static constexpr bool constant = true;
  static constexpr int unit = unit_elements(item_, true);
  using Block = Four<item_>;
  struct High {};
  uint4 pattern;

  explicit FASTINIT_DEVICE Repeat(const Transform& t) {
    uint8_t bytes[16];
#pragma unroll
    for (int k = 0; k < 16; ++k) bytes[k] = t.pattern[k % item_];
    memcpy(&pattern, bytes, 16);
  }

  FASTINIT_DEVICE High high(uint32_t) const { return {}; }
  FASTINIT_DEVICE Block make(const High&, uint32_t) const {
    const uint32_t w[4] = {pattern.x, pattern.y, pattern.z, pattern.w};
    Block out;
#pragma unroll
    for (int k = 0; k < item_; ++k) out.w[k] = w[k % 4];
    return out;
  }
};

}  // namespace fastinit::cuda
