// What a thread computes: the four elements of a Philox block, packed as they lie in memory.
//
// A functor maps a Philox counter to them. It also has `item_size`, bytes of an element;
// `constant`, whether counters make no difference; `typed`, whether kind and type are known when
// compiling; store(to, packed) for four contiguous elements, aligned to their size or 16 bytes; and
// store_one(to, packed, k) for the k-th. Of many blocks: put_blocks, to shared memory; store_blocks
// of those that are typed, to strided memory; and store_vectors, a kernel's vectorised loop.
#pragma once

#include <type_traits>

#include "core/lanes_scalar.h"
#include "core/transforms.h"
#include "cuda/kernels.h"
#include "cuda/packed4.cuh"
#include "cuda/tiling.h"

namespace fastinit::cuda {

// Where a task's constants are while it runs: in a kernel's parameters, which is constant memory
// and as good as an immediate operand, or copied to registers.
enum class ArgsIn { ConstantBank, Registers };
template <ArgsIn where, class T>
using Stored = std::conditional_t<where == ArgsIn::ConstantBank, const T&, const T>;

// Whether samples are clamped: decided when compiling, or asked of the task.
enum class Clamp { Never, Always, PerTask };

template <DType dtype>
FASTINIT_DEVICE const auto& args_of(const Transform& t) {
  if constexpr (dtype == DType::F64)
    return t.f64;
  else
    return t.f32;
}

// The constants that a kind reads, lest a copy takes registers for all of them.
template <Kind kind, class Real>
FASTINIT_DEVICE TransformArgs<Real> copy_args(const TransformArgs<Real>& from) {
  TransformArgs<Real> args;
  args.lo = from.lo;
  args.hi = from.hi;
  if constexpr (kind == Kind::Uniform) args.uniform = from.uniform;
  if constexpr (kind == Kind::Normal) args.normal = {from.normal.mean, from.normal.std};
  if constexpr (kind == Kind::Central) {
    const auto& c = from.central;
    args.central = {c.p_a, c.q_b, c.d, c.h_a, c.h_b, c.mean, c.std};
  }
  static_assert(
      kind == Kind::Words || kind == Kind::Uniform || kind == Kind::Normal || kind == Kind::Central,
      "copy its constants");
  return args;
}

// A warp's samples while those in the tails are collected: every lane's own, and where the tails
// are among them.
struct alignas(16) TailBuffer {
  static constexpr int kSamples = 16;  // of a lane
  static constexpr int kPitch = 20;    // from lane to lane: 16 bytes each reach all banks
  uint32_t samples[32 * kPitch];
  uint16_t tails[32 * kSamples];
};
FASTINIT_DEVICE TailBuffer& tail_buffer_of_warp() {
  __shared__ TailBuffer buffers[kBlockThreads / 32];
  return buffers[threadIdx.x / 32];
}

// Samples of one kind and type.
template <ArgsIn where, Kind kind, DType dtype, Clamp clamp_>
struct RandomFunctor {
  static constexpr bool is_f64 = dtype == DType::F64, constant = false, typed = true;
  static constexpr uint32_t item_size = fastinit::item_size(dtype);
  static constexpr uint32_t vec_size = vec_size_for(item_size, false);
  // Normals of doubles spill in the 64 registers that the compiler sets itself, and from sm_100 on
  // in the 80 of three thread blocks.
#if FASTINIT_DEVICE_PASS && __CUDA_ARCH__ >= 1000
  static constexpr int min_blocks_per_multiprocessor = is_f64 && kind == Kind::Normal ? 2 : 0;
#else
  static constexpr int min_blocks_per_multiprocessor = is_f64 && kind == Kind::Normal ? 3 : 0;
#endif
  static constexpr bool pairs = item_size == 2 && kClampsPairs;
  // No radius is zero (docs/stream.md, section 5).
  using F32 = std::conditional_t<kind == Kind::Central, ScalarF32Central, ScalarF32Positive>;
  using L = std::conditional_t<is_f64, ScalarF64, F32>;
  using Packed = Packed4<item_size>;

  Stored<where, TransformArgs<typename L::Real>> args;
  Stored<where, PhiloxKeys> value_keys, low_keys;  // the second is read in double only
  const bool clamped;
  const uint32_t lo_pair, hi_pair;

  explicit FASTINIT_DEVICE RandomFunctor(const SingleTaskParams& params)
      : args(args_of<dtype>(params.task.transform)),
        value_keys(params.value_keys),
        low_keys(params.low_keys),
        clamped(params.task.transform.clamped),
        lo_pair(pair_of(args.lo)),
        hi_pair(pair_of(args.hi)) {}
  explicit FASTINIT_DEVICE RandomFunctor(const TiledTask& task)
      : args(copy_args<kind>(args_of<dtype>(task.transform))),
        value_keys(philox_keys(task.key, task.purpose)),
        low_keys(is_f64 ? philox_keys(task.key, Purpose::Low) : value_keys),
        clamped(task.transform.clamped),
        lo_pair(pair_of(args.lo)),
        hi_pair(pair_of(args.hi)) {}

  static FASTINIT_DEVICE uint32_t pair_of(typename L::Real bound) {
    if constexpr (pairs)
      return pack16<dtype>(bound, bound);
    else
      return 0;
  }

  // What the high word of a counter decides.
  struct High {
    PhiloxHigh value, low;
  };
  FASTINIT_DEVICE High high_of(uint64_t counter) const {
    const uint32_t counter_high = static_cast<uint32_t>(counter >> 32);
    const PhiloxHigh value = philox_high(value_keys, counter_high);
    return {value, is_f64 ? philox_high(low_keys, counter_high) : value};
  }

  FASTINIT_DEVICE Packed generate(const High& high, uint32_t counter_low) const {
    const Words4 words = philox_block(value_keys, high.value, counter_low);
    if constexpr (kind == Kind::Words) {
      return {{words.w[0], words.w[1], words.w[2], words.w[3]}};
    } else {
      Words4 low = words;
      if constexpr (is_f64) low = philox_block(low_keys, high.low, counter_low);
      typename L::F v[4];
#pragma unroll
      for (int k = 0; k < 4; k += 2)
        sample_pair<L, kind>(args, words.w[k], words.w[k + 1], low.w[k], low.w[k + 1], v[k],
                             v[k + 1]);
      return pack_clamped(v, clamp_ == Clamp::Always || (clamp_ == Clamp::PerTask && clamped));
    }
  }

  // Four samples as they lie in memory, clamped if wanted.
  FASTINIT_DEVICE Packed pack_clamped(typename L::F (&v)[4], bool clamps) const {
    if (clamps && !pairs) {
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = clamp<L>(args, v[k]);
    }
    Packed packed = pack<dtype>(v);
    if constexpr (pairs) {
      if (clamps) {
#pragma unroll
        for (int k = 0; k < 2; ++k) packed.w[k] = clamp_pair<dtype>(packed.w[k], lo_pair, hi_pair);
      }
    }
    return packed;
  }

  FASTINIT_DEVICE Packed operator()(uint64_t counter) const {
    return generate(high_of(counter), static_cast<uint32_t>(counter));
  }
  FASTINIT_DEVICE void store(char* to, const Packed& packed) const { store_packed(to, packed); }
  FASTINIT_DEVICE void store_one(char* to, const Packed& packed, int k) const {
    store_element(to, packed, k);
  }

  // The elements of `count` Philox blocks, whose counters have one high word, `stride` bytes apart
  // and aligned.
  FASTINIT_DEVICE void store_blocks(char* to, uint64_t counter, uint32_t count,
                                    int64_t stride) const {
    const High high = high_of(counter);
#pragma unroll 1
    for (uint32_t k = 0; k < count; ++k) {
      const Packed four = generate(high, static_cast<uint32_t>(counter) + k);
#pragma unroll
      for (int j = 0; j < 4; ++j, to += stride) store_aligned(to, four, j);
    }
  }

  // `count` Philox blocks to shared memory, by all threads of the block.
  FASTINIT_DEVICE void put_blocks(char* to, uint64_t counter, uint32_t count) const {
    uint32_t begin = 0;
#pragma unroll 1
    while (begin < count) {  // once, unless the counter's low word wraps
      const uint32_t low = static_cast<uint32_t>(counter) + begin, before_wrap = 0u - low;
      const uint32_t end = before_wrap - 1 < count - begin - 1 ? begin + before_wrap : count;
      const High high = high_of(counter + begin);
#pragma unroll 1
      for (uint32_t k = begin + threadIdx.x; k < end; k += kBlockThreads)
        put_packed(to + 4 * item_size * k, generate(high, static_cast<uint32_t>(counter) + k));
      begin = end;
    }
  }

  // Of truncated normals a tenth is in the tails, and nearly every warp has some: the middle is
  // computed for all, and what lies in the tails once more, in full warps. `n` vectors of every
  // lane, from vector `index` on; all of them are there if `whole`.
  template <uint32_t n, bool whole>
  FASTINIT_DEVICE void store_central(const VectorRange& vectors, const High& high,
                                     uint32_t index) const {
    constexpr uint32_t counters = vec_size / 4;  // of a vector
    static_assert(clamp_ == Clamp::Always, "the bounds are the interval's");
    static_assert(whole || n == 1, "one test for all");
    static_assert(n * vec_size <= TailBuffer::kSamples, "room");
    const uint32_t lane = threadIdx.x % 32, counter = static_cast<uint32_t>(vectors.counter);
    TailBuffer& buffer = tail_buffer_of_warp();
    uint4* const own = reinterpret_cast<uint4*>(buffer.samples + lane * TailBuffer::kPitch);
    uint32_t found = 0;  // bit k: the lane's sample k is in a tail
#pragma unroll
    for (uint32_t k = 0; k < n * counters; ++k) {
      const uint32_t at = (index + k / counters * kBlockThreads) * counters + k % counters;
      const Words4 words = philox_block(value_keys, high.value, counter + at);
      uint32_t v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        bool is_tail;
        const auto point = central_point<L>(args, words.w[j], words.w[j]);
        const float z = central_middle<L>(point, is_tail).value();
        v[j] = is_tail ? words.w[j] : L::bits(z);
        if (is_tail) found |= 1u << (4 * k + j);
      }
      own[k] = make_uint4(v[0], v[1], v[2], v[3]);
    }
    const bool there = whole || index < vectors.end;
    if (!there) found = 0;
    const uint32_t mine = static_cast<uint32_t>(__popc(found));
    uint32_t up_to = mine;
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
      const uint32_t below = __shfl_up_sync(~0u, up_to, step);
      if (lane >= step) up_to += below;
    }
    const uint32_t all = __shfl_sync(~0u, up_to, 31);
    uint16_t* place = buffer.tails + (up_to - mine);
#pragma unroll 1
    while (found != 0) {
      const uint32_t k = 31 - static_cast<uint32_t>(__clz(found));
      found ^= 1u << k;
      *place++ = static_cast<uint16_t>(lane * TailBuffer::kPitch + k);
    }
    __syncwarp();
#pragma unroll 1
    for (uint32_t k = lane; k < all; k += 32) {
      uint32_t& value = buffer.samples[buffer.tails[k]];
      const auto point = central_point<L>(args, value, value);
      value = L::bits(central_tail<L>(args, point, value).value());
    }
    __syncwarp();
#pragma unroll
    for (uint32_t k = 0; k < n; ++k) {
      uint32_t w[4];
#pragma unroll
      for (uint32_t b = 0; b < counters; ++b) {
        const uint4 z = own[k * counters + b];
        float v[4] = {L::from_bits(z.x), L::from_bits(z.y), L::from_bits(z.z), L::from_bits(z.w)};
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = central_value<L>(args, v[j]);
        const Packed four = pack_clamped(v, true);
#pragma unroll
        for (uint32_t j = 0; j < item_size; ++j) w[b * item_size + j] = four.w[j];
      }
      char* const to =
          vectors.base + static_cast<uint64_t>(index + k * kBlockThreads) * (vec_size * item_size);
      if (there) store16(to, w[0], w[1], w[2], w[3]);
    }
  }

  FASTINIT_DEVICE void store_vectors(const VectorRange& vectors) const {
    if constexpr (is_f64)
      store_vectors_by_lane_pair(vectors);
    else if constexpr (kind == Kind::Central)
      store_vectors_by_warp(vectors);
    else
      store_vectors_by_thread(vectors);
  }

  // A vector of doubles is 32 bytes, two stores. Each would fill half a sector of the cache, and
  // the cache takes as long for a half as for a whole one: so neighbours trade halves, and each
  // store of a pair is of one vector.
  FASTINIT_DEVICE void store_vectors_by_lane_pair(const VectorRange& vectors) const {
    const uint32_t odd = threadIdx.x % 2, counter = static_cast<uint32_t>(vectors.counter);
    const High high = high_of(vectors.counter + vectors.begin);
#pragma unroll 1
    for (uint32_t index = vectors.begin + threadIdx.x; index - threadIdx.x % 32 < vectors.end;
         index += kBlockThreads) {
      const Packed four = generate(high, counter + index);
      uint32_t first[4], second[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const uint32_t own = odd ? four.w[4 + k] : four.w[k];
        const uint32_t given = odd ? four.w[k] : four.w[4 + k];
        const uint32_t got = __shfl_xor_sync(~0u, given, 1);
        first[k] = odd ? got : own;
        second[k] = odd ? own : got;
      }
      const uint32_t even = index - odd;
      char* const to =
          vectors.base + static_cast<uint64_t>(even) * (vec_size * item_size) + 16 * odd;
      if (even < vectors.end) store16(to, first[0], first[1], first[2], first[3]);
      if (even + 1 < vectors.end) store16(to + 32, second[0], second[1], second[2], second[3]);
    }
  }

  // All lanes go through the same rounds.
  FASTINIT_DEVICE void store_vectors_by_warp(const VectorRange& vectors) const {
    constexpr uint32_t kVectors =
        (where == ArgsIn::Registers ? 8 : TailBuffer::kSamples) / vec_size;
    const uint32_t lane = threadIdx.x % 32;
    const High high = high_of(vectors.counter + uint64_t{vectors.begin} * (vec_size / 4));
    uint32_t index = vectors.begin + threadIdx.x;
#pragma unroll 1
    for (; index - lane + 31 + (kVectors - 1) * kBlockThreads < vectors.end;
         index += kVectors * kBlockThreads)
      store_central<kVectors, true>(vectors, high, index);
#pragma unroll 1
    for (; index - lane < vectors.end; index += kBlockThreads)
      store_central<1, false>(vectors, high, index);
  }

  FASTINIT_DEVICE void store_vectors_by_thread(const VectorRange& vectors) const {
    // Four Philox blocks in a row share what is read or set up for each round of the loop.
    constexpr uint32_t counters = vec_size / 4;  // of a vector
    [[maybe_unused]] constexpr uint32_t kUnroll =
        where == ArgsIn::Registers || counters > 1 ? 2 : 4;
    const High high = high_of(vectors.counter + uint64_t{vectors.begin} * counters);
    const uint32_t counter = static_cast<uint32_t>(vectors.counter);
    const auto store_at = [&](uint32_t index) {
      store_vector(vectors.base + static_cast<uint64_t>(index) * (vec_size * item_size), high,
                   counter + index * counters);
    };
    uint32_t index = vectors.begin + threadIdx.x;
    // Nothing is asked between the vectors of a round.
#pragma unroll 1
    for (; index + (kUnroll - 1) * kBlockThreads < vectors.end; index += kUnroll * kBlockThreads)
#pragma unroll
      for (uint32_t k = 0; k < kUnroll; ++k) store_at(index + k * kBlockThreads);
#pragma unroll 1
    for (; index < vectors.end; index += kBlockThreads) store_at(index);
  }

  FASTINIT_DEVICE void store_vector(char* to, const High& high, uint32_t counter) const {
    if constexpr (vec_size == 4) {
      store_packed(to, generate(high, counter));
    } else {
      uint32_t w[4];
#pragma unroll
      for (uint32_t k = 0; k < vec_size / 4; ++k) {
        const Packed four = generate(high, counter + k);
#pragma unroll
        for (uint32_t j = 0; j < item_size; ++j) w[k * item_size + j] = four.w[j];
      }
      store16(to, w[0], w[1], w[2], w[3]);
    }
  }
};

// Fills with one value of any size; its bytes repeat to 16.
struct ConstantFunctor {
  static constexpr bool constant = true, typed = false;
  static constexpr int min_blocks_per_multiprocessor = 0;
  struct Packed {};
  const uint8_t* pattern;
  const uint32_t item_size;

  explicit FASTINIT_DEVICE ConstantFunctor(const TiledTask& task)
      : pattern(task.transform.pattern), item_size(task.transform.item_size) {}
  explicit FASTINIT_DEVICE ConstantFunctor(const SingleTaskParams& params)
      : ConstantFunctor(params.task) {}

  FASTINIT_DEVICE uint32_t word(uint32_t at) const {
    uint32_t w = 0;
#pragma unroll
    for (uint32_t b = 0; b < 4; ++b)
      w |= static_cast<uint32_t>(pattern[(at + b) & (item_size - 1)]) << (8 * b);
    return w;
  }
  FASTINIT_DEVICE Packed operator()(uint64_t) const { return {}; }
  FASTINIT_DEVICE void store(char* to, const Packed& packed) const {
    for (int k = 0; k < 4; ++k) store_one(to + k * item_size, packed, k);
  }
  FASTINIT_DEVICE void store_one(char* to, const Packed&, int) const {
    for (uint32_t at = 0; at < item_size; at += 4) {
      const uint32_t w = word(at), left = item_size - at;
      const uint32_t alignment = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(to + at));
      if (left >= 4 && alignment % 4 == 0) {
        *reinterpret_cast<uint32_t*>(to + at) = w;
      } else if (left == 2 && alignment % 2 == 0) {
        *reinterpret_cast<uint16_t*>(to + at) = static_cast<uint16_t>(w);
      } else {
        for (uint32_t b = 0; b < left && b < 4; ++b) to[at + b] = static_cast<char>(w >> (8 * b));
      }
    }
  }
  FASTINIT_DEVICE void store_vectors(const VectorRange& vectors) const {
    const uint32_t w[4] = {word(0), word(4), word(8), word(12)};
#pragma unroll 4
    for (uint32_t index = vectors.begin + threadIdx.x; index < vectors.end; index += kBlockThreads)
      store16(vectors.base + static_cast<uint64_t>(index) * 16, w[0], w[1], w[2], w[3]);
  }
};

}  // namespace fastinit::cuda
