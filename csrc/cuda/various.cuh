// Random fills whose kind and type are asked at every block: one piece of code for what is rare or
// slow anyway in a list of tasks, so that their kernel stays small.
#pragma once

#include "cuda/program.cuh"

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

// Block `n` of a task of any random kind, as samples before rounding (or as words). A function of
// its own, and one that reads all it needs itself: inlined, it would have the compiler hold the
// constants of all kinds in registers.
template <bool wide>
__device__ __noinline__ Four<wide ? 8 : 4> various_block(const Record& r, uint64_t n) {
  using L = std::conditional_t<wide, ScalarF64, ScalarF32>;
  const Words4 words = block(r.key, n, r.purpose);
  Words4 low = words;
  if constexpr (wide) low = block(r.key, n, Purpose::Low);
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
    case Kind::Far:
      // Its quotients are displacements in the units of the tensor.
      sample_all<std::conditional_t<wide, ScalarF64, ScalarF32AnyQuotient>, Kind::Far>(args, words,
                                                                                       low, v);
      break;
    default:
      if constexpr (!wide) return {{words.w[0], words.w[1], words.w[2], words.w[3]}};
  }
  if (r.transform.clamped) {
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = clamp<L>(args, v[k]);
  }
  return pack<wide ? DType::F64 : DType::F32>(v);
}

template <bool wide>
struct Various {
  static constexpr bool constant = false;
  using Block = Four<wide ? 8 : 4>;
  const Record& record;
  const uint32_t item;

  explicit FASTINIT_DEVICE Various(const Record& r) : record(r), item(r.transform.item_size) {}

  FASTINIT_DEVICE Block block_of(uint64_t n) const { return various_block<wide>(record, n); }

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

}  // namespace fastinit::cuda
