// Samples whose kind and type are asked at every Philox block: one piece of code for what is rare
// or slow anyway in a list of tasks, so that their kernel stays small.
#pragma once

#include "cuda/functors.cuh"

namespace fastinit::cuda {

template <class L, Kind kind, class Real>
FASTINIT_DEVICE void sample_all(const TransformArgs<Real>& args, const Words4& words,
                                const Words4& low, Real (&v)[4]) {
  if constexpr (!is_double<L>) {
#pragma unroll
    for (int k = 0; k < 4; k += 2)
      sample_pair<L, kind>(args, words.w[k], words.w[k + 1], low.w[k], low.w[k + 1], v[k],
                           v[k + 1]);
  } else {
    // Long and full of constants in double: one or two samples at a time, the registers moving on.
    constexpr int step = kind == Kind::Normal ? 2 : 1;
    uint32_t w[4] = {words.w[0], words.w[1], words.w[2], words.w[3]};
    uint32_t l[4] = {low.w[0], low.w[1], low.w[2], low.w[3]};
#pragma unroll 1
    for (int k = 0; k < 4; k += step) {
      Real x[2] = {};
      if constexpr (kind == Kind::Normal)
        normal_pair<L>(args, w[0], w[1], l[0], l[1], x[0], x[1]);
      else
        x[0] = sample<L, kind>(args, w[0], l[0]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool moves = j + step < 4;
        w[j] = moves ? w[(j + step) % 4] : w[j];
        l[j] = moves ? l[(j + step) % 4] : l[j];
        v[j] = moves ? v[(j + step) % 4] : x[(j + step) % 4];
      }
    }
  }
}

// The quotients of Kind::Far are displacements in the units of the tensor.
template <bool is_f64, Kind kind>
using DynamicLanes =
    std::conditional_t<is_f64, ScalarF64,
                       std::conditional_t<kind == Kind::Far, ScalarF32AnyQuotient, ScalarF32>>;

// The samples of a counter for a task of any random kind, before rounding (or its words). A
// function of its own, and one that reads all it needs itself: inlined, it would have the compiler
// hold the constants of all kinds in registers.
template <bool is_f64>
__device__ __noinline__ Packed4<is_f64 ? 8 : 4> dynamic_samples(const TiledTask& task,
                                                                uint64_t counter) {
  using L = std::conditional_t<is_f64, ScalarF64, ScalarF32>;
  const Words4 words = block(task.key, counter, task.purpose);
  Words4 low = words;
  if constexpr (is_f64) low = block(task.key, counter, Purpose::Low);
  const auto& args = args_of<is_f64 ? DType::F64 : DType::F32>(task.transform);
  typename L::Real v[4] = {};
  switch (task.transform.kind) {
#define FASTINIT_CASE(kind)                                                        \
  case Kind::kind:                                                                 \
    sample_all<DynamicLanes<is_f64, Kind::kind>, Kind::kind>(args, words, low, v); \
    break;
    FASTINIT_SAMPLE_KINDS(FASTINIT_CASE)
#undef FASTINIT_CASE
    case Kind::Words:
      if constexpr (!is_f64) return {{words.w[0], words.w[1], words.w[2], words.w[3]}};
      break;
    case Kind::Constant:  // has a functor of its own
      break;
  }
  if (task.transform.clamped) {
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = clamp<L>(args, v[k]);
  }
  return pack<is_f64 ? DType::F64 : DType::F32>(v);
}

template <bool is_f64>
struct DynamicFunctor {
  static constexpr bool constant = false, typed = false;
  using Packed = Packed4<is_f64 ? 8 : 4>;
  const TiledTask& task;
  const uint32_t item_size;

  explicit FASTINIT_DEVICE DynamicFunctor(const TiledTask& t)
      : task(t), item_size(t.transform.item_size) {}

  FASTINIT_DEVICE Packed operator()(uint64_t counter) const {
    return dynamic_samples<is_f64>(task, counter);
  }

  // Calls f with the elements as they lie in memory.
  template <class F>
  FASTINIT_DEVICE void with_elements(const Packed& packed, const F& f) const {
    if constexpr (is_f64) {
      f(packed);
    } else {
      float v[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = ScalarF32::from_bits(packed.w[k]);
      switch (task.transform.dtype) {
        case DType::F16:
          return f(pack<DType::F16>(v));
        case DType::BF16:
          return f(pack<DType::BF16>(v));
        case DType::E4M3:
          return f(pack<DType::E4M3>(v));
        case DType::E5M2:
          return f(pack<DType::E5M2>(v));
        case DType::F32:
        case DType::Word:
          return f(packed);
        case DType::F64:
        case DType::Bytes:  // have functors of their own
          break;
      }
      __builtin_unreachable();  // otherwise nvcc tests for types beyond the last
    }
  }
  FASTINIT_DEVICE void store(char* to, const Packed& packed) const {
    with_elements(packed, [=](const auto& four) { store_packed(to, four); });
  }
  FASTINIT_DEVICE void put_blocks(char* to, uint64_t counter, uint32_t count) const {
#pragma unroll 1
    for (uint32_t k = threadIdx.x; k < count; k += kBlockThreads)
      with_elements((*this)(counter + k),
                    [=](const auto& four) { put_packed(to + 4 * item_size * k, four); });
  }
  FASTINIT_DEVICE void store_one(char* to, const Packed& packed, int k) const {
    with_elements(packed, [=](const auto& four) { store_element(to, four, k); });
  }
};

}  // namespace fastinit::cuda
