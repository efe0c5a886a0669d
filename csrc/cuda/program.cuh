// What a thread computes: a block of the stream -> four elements as they lie in memory.
//
// A program has `item` as in Record, block_of(n), the elements of a block, store(to,
// block) for four contiguous elements that are aligned to their size or 16 bytes, store_one(to,
// block, k), and write_units, which is a kernel's inner loop.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "core/lanes_scalar.h"
#include "core/transforms.h"
#include "cuda/pack.cuh"
#include "cuda/plan.h"

namespace fastinit::cuda {

// Where the constants of a task are: in the parameter of a kernel, which is constant memory and as
// good as an immediate operand, or in a table, of which copies are made.
enum class From { Parameter, Table };
template <From from, class T>
using Held = std::conditional_t<from == From::Parameter, const T&, const T>;

// Whether samples are clamped: decided when compiling, or asked of the task.
enum class Clamp { No, Yes, Ask };

template <DType dtype>
FASTINIT_DEVICE const auto& args_of(const Transform& t) {
  if constexpr (dtype == DType::F64)
    return t.f64;
  else
    return t.f32;
}

// The constants that a kind reads, lest a copy takes registers for all of them.
template <Kind kind, class Real>
FASTINIT_DEVICE TransformArgs<Real> copied(const TransformArgs<Real>& from) {
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

// The samples of a warp's round, while those in the tails are taken apart: every lane's own, and
// where the tails are among them.
struct alignas(16) Detour {
  static constexpr int kSamples = 16;  // of a lane
  static constexpr int kPitch = 20;    // from lane to lane: 16 bytes each reach all banks
  uint32_t values[32 * kPitch];
  uint16_t places[32 * kSamples];
};
FASTINIT_DEVICE Detour& detour_of_warp() {
  __shared__ Detour detours[kThreads / 32];
  return detours[threadIdx.x / 32];
}

// Random fills of one kind and type.
template <From from, Kind kind, DType dtype, Clamp clamp_>
struct Random {
  static constexpr bool wide = dtype == DType::F64, constant = false;
  static constexpr uint32_t item = item_size(dtype), unit = unit_elements(item, false);
  // Normals of doubles spill in the 64 registers that the compiler sets itself, and from sm_100 on
  // in the 80 of three blocks.
#if FASTINIT_DEVICE_PASS && __CUDA_ARCH__ >= 1000
  static constexpr int blocks_at_once = wide && kind == Kind::Normal ? 2 : 0;
#else
  static constexpr int blocks_at_once = wide && kind == Kind::Normal ? 3 : 0;
#endif
  static constexpr bool pairs = item == 2 && kClampsPairs;
  // No radius is zero (docs/stream.md, section 5).
  using Narrow = std::conditional_t<kind == Kind::Central, ScalarF32Central, ScalarF32Positive>;
  using L = std::conditional_t<wide, ScalarF64, Narrow>;
  using Args = TransformArgs<typename L::Real>;
  using Block = Four<item>;

  Held<from, Args> args;
  Held<from, PhiloxKeys> value_keys, low_keys;  // the second is read in double only
  const bool clamped;
  const uint32_t lo_pair, hi_pair;

  explicit FASTINIT_DEVICE Random(const Single& s)
      : args(args_of<dtype>(s.record.transform)),
        value_keys(s.value),
        low_keys(s.low),
        clamped(s.record.transform.clamped),
        lo_pair(pair_of(args.lo)),
        hi_pair(pair_of(args.hi)) {}
  explicit FASTINIT_DEVICE Random(const Record& r)
      : args(copied<kind>(args_of<dtype>(r.transform))),
        value_keys(philox_keys(r.key, r.purpose)),
        low_keys(wide ? philox_keys(r.key, Purpose::Low) : value_keys),
        clamped(r.transform.clamped),
        lo_pair(pair_of(args.lo)),
        hi_pair(pair_of(args.hi)) {}

  static FASTINIT_DEVICE uint32_t pair_of(typename L::Real bound) {
    if constexpr (pairs)
      return pack16<dtype>(bound, bound);
    else
      return 0;
  }

  struct High {
    PhiloxHigh value, low;
  };
  FASTINIT_DEVICE High high(uint32_t counter_high) const {
    const PhiloxHigh value = philox_high(value_keys, counter_high);
    return {value, wide ? philox_high(low_keys, counter_high) : value};
  }

  FASTINIT_DEVICE Block make(const High& h, uint32_t counter) const {
    const Words4 words = philox_block(value_keys, h.value, counter);
    if constexpr (kind == Kind::Words) {
      return {{words.w[0], words.w[1], words.w[2], words.w[3]}};
    } else {
      Words4 low = words;
      if constexpr (wide) low = philox_block(low_keys, h.low, counter);
      typename L::F v[4];
#pragma unroll
      for (int k = 0; k < 4; k += 2)
        sample_pair<L, kind>(args, words.w[k], words.w[k + 1], low.w[k], low.w[k + 1], v[k],
                             v[k + 1]);
      return packed(v, clamp_ == Clamp::Yes || (clamp_ == Clamp::Ask && clamped));
    }
  }

  // Four samples as they lie in memory, clamped if wanted.
  FASTINIT_DEVICE Block packed(typename L::F (&v)[4], bool clamps) const {
    if (clamps && !pairs) {
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = clamp<L>(args, v[k]);
    }
    Block block = pack<dtype>(v);
    if constexpr (pairs) {
      if (clamps) {
#pragma unroll
        for (int k = 0; k < 2; ++k) block.w[k] = clamp_pair<dtype>(block.w[k], lo_pair, hi_pair);
      }
    }
    return block;
  }

  FASTINIT_DEVICE Block block_of(uint64_t n) const {
    return make(high(static_cast<uint32_t>(n >> 32)), static_cast<uint32_t>(n));
  }
  FASTINIT_DEVICE void store(char* to, const Block& block) const { store_four(to, block); }
  FASTINIT_DEVICE void store_one(char* to, const Block& block, int k) const {
    store_element(to, block, k);
  }

  // Of truncated normals a tenth is in the tails, and nearly every warp has some: the middle is
  // computed for all, and what lies in the tails once more, in full warps. `n` units of every lane,
  // from unit u on; all of them are there if `whole`.
  template <uint32_t n, bool whole>
  FASTINIT_DEVICE void write_central(const Units& units, const High& h, uint32_t u) const {
    constexpr uint32_t blocks = unit / 4;
    static_assert(clamp_ == Clamp::Yes, "the bounds are the interval's");
    static_assert(whole || n == 1, "one test for all");
    static_assert(n * unit <= Detour::kSamples, "room");
    const uint32_t lane = threadIdx.x % 32, counter = static_cast<uint32_t>(units.block);
    Detour& detour = detour_of_warp();
    uint4* const own = reinterpret_cast<uint4*>(detour.values + lane * Detour::kPitch);
    uint32_t found = 0;  // bit k: the lane's sample k is in a tail
#pragma unroll
    for (uint32_t k = 0; k < n * blocks; ++k) {
      const uint32_t at = (u + k / blocks * kThreads) * blocks + k % blocks;
      const Words4 words = philox_block(value_keys, h.value, counter + at);
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
    const bool there = whole || u < units.end;
    if (!there) found = 0;
    const uint32_t mine = static_cast<uint32_t>(__popc(found));
    uint32_t up_to = mine;
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
      const uint32_t below = __shfl_up_sync(~0u, up_to, step);
      if (lane >= step) up_to += below;
    }
    const uint32_t all = __shfl_sync(~0u, up_to, 31);
    uint16_t* place = detour.places + (up_to - mine);
#pragma unroll 1
    while (found != 0) {
      const uint32_t k = 31 - static_cast<uint32_t>(__clz(found));
      found ^= 1u << k;
      *place++ = static_cast<uint16_t>(lane * Detour::kPitch + k);
    }
    __syncwarp();
#pragma unroll 1
    for (uint32_t k = lane; k < all; k += 32) {
      uint32_t& value = detour.values[detour.places[k]];
      const auto point = central_point<L>(args, value, value);
      value = L::bits(central_tail<L>(args, point, value).value());
    }
    __syncwarp();
#pragma unroll
    for (uint32_t k = 0; k < n; ++k) {
      uint32_t w[4];
#pragma unroll
      for (uint32_t b = 0; b < blocks; ++b) {
        const uint4 z = own[k * blocks + b];
        float v[4] = {L::from_bits(z.x), L::from_bits(z.y), L::from_bits(z.z), L::from_bits(z.w)};
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = central_value<L>(args, v[j]);
        const Block four = packed(v, true);
#pragma unroll
        for (uint32_t j = 0; j < item; ++j) w[b * item + j] = four.w[j];
      }
      char* const to = units.origin + static_cast<uint64_t>(u + k * kThreads) * (unit * item);
      if (there) store16(to, w[0], w[1], w[2], w[3]);
    }
  }

  FASTINIT_DEVICE void write_units(const Units& units) const {
    if constexpr (wide)
      write_units_of_neighbours(units);
    else if constexpr (kind == Kind::Central)
      write_units_of_warps(units);
    else
      write_units_of_threads(units);
  }

  // A unit of doubles is 32 bytes, two stores. Each would fill half a sector of the cache, and the
  // cache takes as long for a half as for a whole one: so neighbours trade halves, and each store
  // of a pair is of one unit.
  FASTINIT_DEVICE void write_units_of_neighbours(const Units& units) const {
    const uint32_t odd = threadIdx.x % 2, counter = static_cast<uint32_t>(units.block);
    const High h = high(static_cast<uint32_t>((units.block + units.first) >> 32));
#pragma unroll 1
    for (uint32_t u = units.first + threadIdx.x; u - threadIdx.x % 32 < units.end; u += kThreads) {
      const Block four = make(h, counter + u);
      uint32_t first[4], second[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const uint32_t own = odd ? four.w[4 + k] : four.w[k];
        const uint32_t given = odd ? four.w[k] : four.w[4 + k];
        const uint32_t got = __shfl_xor_sync(~0u, given, 1);
        first[k] = odd ? got : own;
        second[k] = odd ? own : got;
      }
      const uint32_t even = u - odd;
      char* const to = units.origin + static_cast<uint64_t>(even) * (unit * item) + 16 * odd;
      if (even < units.end) store16(to, first[0], first[1], first[2], first[3]);
      if (even + 1 < units.end) store16(to + 32, second[0], second[1], second[2], second[3]);
    }
  }

  // All lanes go through the same rounds.
  FASTINIT_DEVICE void write_units_of_warps(const Units& units) const {
    constexpr uint32_t kUnits = (from == From::Table ? 8 : Detour::kSamples) / unit;
    const uint32_t lane = threadIdx.x % 32;
    const High h =
        high(static_cast<uint32_t>((units.block + uint64_t{units.first} * (unit / 4)) >> 32));
    uint32_t u = units.first + threadIdx.x;
#pragma unroll 1
    for (; u - lane + 31 + (kUnits - 1) * kThreads < units.end; u += kUnits * kThreads)
      write_central<kUnits, true>(units, h, u);
#pragma unroll 1
    for (; u - lane < units.end; u += kThreads) write_central<1, false>(units, h, u);
  }

  FASTINIT_DEVICE void write_units_of_threads(const Units& units) const {
    // Four blocks in a row: what is read or set up for each round of the loop is shared by them.
    constexpr uint32_t blocks = unit / 4;
    [[maybe_unused]] constexpr uint32_t kUnroll = from == From::Table || blocks > 1 ? 2 : 4;
    const High h =
        high(static_cast<uint32_t>((units.block + uint64_t{units.first} * blocks) >> 32));
    const uint32_t counter = static_cast<uint32_t>(units.block);
    const auto write = [&](uint32_t u) {
      write_unit(units.origin + static_cast<uint64_t>(u) * (unit * item), h, counter + u * blocks);
    };
    uint32_t u = units.first + threadIdx.x;
    // Nothing is asked between the units of a round.
#pragma unroll 1
    for (; u + (kUnroll - 1) * kThreads < units.end; u += kUnroll * kThreads)
#pragma unroll
      for (uint32_t k = 0; k < kUnroll; ++k) write(u + k * kThreads);
#pragma unroll 1
    for (; u < units.end; u += kThreads) write(u);
  }

  FASTINIT_DEVICE void write_unit(char* to, const High& h, uint32_t counter) const {
    if constexpr (unit == 4) {
      store_four(to, make(h, counter));
    } else {
      uint32_t w[4];
#pragma unroll
      for (uint32_t k = 0; k < unit / 4; ++k) {
        const Block four = make(h, counter + k);
#pragma unroll
        for (uint32_t j = 0; j < item; ++j) w[k * item + j] = four.w[j];
      }
      store16(to, w[0], w[1], w[2], w[3]);
    }
  }
};

// Fills with one value of any size; its bytes repeat to 16.
struct Repeat {
  static constexpr bool constant = true;
  static constexpr int blocks_at_once = 0;
  struct Block {};
  const uint8_t* pattern;
  const uint32_t item;

  explicit FASTINIT_DEVICE Repeat(const Record& r)
      : pattern(r.transform.pattern), item(r.transform.item_size) {}
  explicit FASTINIT_DEVICE Repeat(const Single& s) : Repeat(s.record) {}

  FASTINIT_DEVICE uint32_t word(uint32_t at) const {
    uint32_t w = 0;
#pragma unroll
    for (uint32_t b = 0; b < 4; ++b)
      w |= static_cast<uint32_t>(pattern[(at + b) & (item - 1)]) << (8 * b);
    return w;
  }
  FASTINIT_DEVICE Block block_of(uint64_t) const { return {}; }
  FASTINIT_DEVICE void store(char* to, const Block& block) const {
    for (int k = 0; k < 4; ++k) store_one(to + k * item, block, k);
  }
  FASTINIT_DEVICE void store_one(char* to, const Block&, int) const {
    for (uint32_t at = 0; at < item; at += 4) {
      const uint32_t w = word(at), left = item - at;
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
  FASTINIT_DEVICE void write_units(const Units& units) const {
    const uint32_t w[4] = {word(0), word(4), word(8), word(12)};
#pragma unroll 4
    for (uint32_t u = units.first + threadIdx.x; u < units.end; u += kThreads)
      store16(units.origin + static_cast<uint64_t>(u) * 16, w[0], w[1], w[2], w[3]);
  }
};

}  // namespace fastinit::cuda
