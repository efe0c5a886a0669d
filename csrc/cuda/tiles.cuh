// The tiles of a task on the device, and their segments, which threads write one by one. Everything
// here is inlined into the kernels of single_task.cuh and multi_task.cu.
#pragma once

#include "cuda/functors.cuh"
#include "cuda/tiling.h"

namespace fastinit::cuda {

// `count` elements from logical index `logical` on, `stride` bytes apart in memory.
struct Segment {
  char* data;
  uint64_t logical;
  int count;
  int64_t stride;
};

// At any phase against Philox blocks and any alignment. Two neighbouring Philox blocks are at hand
// at a time.
template <class Functor>
FASTINIT_DEVICE void store_segment(const Functor& functor, const Segment& segment) {
  const uint32_t item_size = functor.item_size, aligned = item_size < 4 ? 4 * item_size : 16;
  char* to = segment.data;
  const bool can_pack =
      segment.stride == item_size && (reinterpret_cast<uintptr_t>(to) & (aligned - 1)) == 0;
  const uint32_t phase = Functor::constant ? 0 : static_cast<uint32_t>(segment.logical) & 3;
  const int ahead = phase != 0;
  const int counters = (static_cast<int>(phase) + segment.count + 3) / 4;
  const int steps = (segment.count + 3) / 4 + ahead;
  uint64_t counter = segment.logical / 4;
  if constexpr (Functor::typed) {  // whole Philox blocks, as most transposed tensors have
    const auto last = counter + static_cast<uint64_t>(counters - 1);
    const auto address = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(to));
    if (phase == 0 && segment.count % 4 == 0 && segment.stride != item_size &&
        address % item_size == 0 && counter >> 32 == last >> 32) {
      functor.store_blocks(to, counter, static_cast<uint32_t>(counters), segment.stride);
      return;
    }
  }
  typename Functor::Packed before{}, now{};
#pragma unroll 1
  for (int k = 0; k < steps; ++k, ++counter) {
    before = now;
    if (k < counters) now = functor(counter);
    if (k < ahead) continue;
    typename Functor::Packed out = now;
    if constexpr (!Functor::constant)
      if (ahead) out = shift_packed(before, now, phase);
    const int left = segment.count - 4 * (k - ahead);
    if (can_pack && left >= 4) {
      functor.store(to, out);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (j < left) functor.store_one(to + j * segment.stride, out, j);
    }
    to += 4 * segment.stride;
  }
}

FASTINIT_DEVICE Tile tile_of_whole_row(const TiledTask& task, uint64_t number) {
  Tile tile = task.whole_row;
  const uint32_t from = static_cast<uint32_t>(number) * task.tile_size, to = from + task.tile_size;
  tile.vectors.begin = from > tile.vectors.begin ? from : tile.vectors.begin;
  tile.vectors.end = to < tile.vectors.end ? to : tile.vectors.end;
  tile.segments = number == 0 ? tile.segments : 0;
  return tile;
}

FASTINIT_DEVICE Tile tile_of(const TiledTask& task, uint64_t number) {
  if (task.whole_row.vectors.end > 0) return tile_of_whole_row(task, number);
  if (task.access == Access::Rows) return row_tile(task, number, task.tile_size);
  Tile tile{};
  tile.first_segment = number * task.tile_size;
  const uint64_t left = task.inner_size.value * task.outer_size - tile.first_segment;
  tile.segments = left < task.tile_size ? static_cast<uint32_t>(left) : task.tile_size;
  return tile;
}

// Segment `k` of a tile.
FASTINIT_DEVICE Segment segment_of(const TiledTask& task, const Tile& tile, uint32_t k) {
  const int64_t item_size = int64_t{1} << task.item_size_log2;
  if (task.access == Access::Rows) {
    const bool head = k < tile.head_segments;
    const int64_t from = head ? tile.begin : tile.body_end, to = head ? tile.body_begin : tile.end;
    const int64_t group = group_start(tile.data, task.item_size_log2, from) +
                          4 * static_cast<int64_t>(head ? k : k - tile.head_segments);
    const int64_t a = group < from ? from : group, b = group + 4 < to ? group + 4 : to;
    return {tile.data + a * item_size, tile.logical + static_cast<uint64_t>(a),
            static_cast<int>(b - a), item_size};
  }
  const DivMod d = divmod(tile.first_segment + k, task.inner_size);
  const int64_t x = static_cast<int64_t>(d.remainder);
  const Offsets outer = outer_offsets(task, d.quotient);
  const int64_t left = task.length - (task.inner_is_logical ? x : outer.last) * task.segment_size;
  return {task.data + (outer.memory + x * task.inner_memory) * item_size,
          task.layout.first + static_cast<uint64_t>(outer.logical + x * task.inner_logical),
          static_cast<int>(left < task.segment_size ? left : task.segment_size),
          task.segment_stride * item_size};
}

// `count` elements that are neighbours in shared memory, `stride` bytes apart where they go.
template <class Item>
FASTINIT_DEVICE void move_items(char* to, const char* from, uint32_t count, int64_t stride) {
#pragma unroll 4
  for (uint32_t k = 0; k < count; ++k, to += stride)
    store_item(to, reinterpret_cast<const Item*>(from)[k]);
}

// The same byte by byte, where memory is not aligned to them.
FASTINIT_DEVICE void move_bytes(char* to, const char* from, uint32_t count, int64_t stride,
                                uint32_t item_size) {
#pragma unroll 1
  for (uint32_t k = 0; k < count; ++k, to += stride)
#pragma unroll 1
    for (uint32_t b = 0; b < item_size; ++b) to[b] = from[k * item_size + b];
}

FASTINIT_DEVICE void move_elements(char* to, const char* from, uint32_t count, int64_t stride,
                                   uint32_t item_size) {
  // Strides are whole elements.
  if ((static_cast<uint32_t>(reinterpret_cast<uintptr_t>(to)) & (item_size - 1)) != 0)
    move_bytes(to, from, count, stride, item_size);
  else if (item_size == 4)
    move_items<uint32_t>(to, from, count, stride);
  else if (item_size == 2)
    move_items<uint16_t>(to, from, count, stride);
  else if (item_size == 8)
    move_items<uint2>(to, from, count, stride);
  else
    move_items<uint8_t>(to, from, count, stride);
}

// A tile of channels. All threads of the block come here, as they wait for each other.
template <class Functor>
FASTINIT_DEVICE void store_channels(const Functor& functor, const TiledTask& task,
                                    uint64_t number) {
  FASTINIT_SHARED_MEMORY(memory);
  char* const samples = reinterpret_cast<char*>(memory);
  const uint32_t item_size = functor.item_size;
  const DivMod d = divmod(number, task.tiles_per_row);
  const uint64_t begin = d.remainder * task.tile_size;
  const uint64_t left = task.inner_size.value - begin;
  const auto channels = static_cast<uint32_t>(left < task.tile_size ? left : task.tile_size);
  const auto length = static_cast<uint32_t>(task.length);
  const Offsets outer = outer_offsets(task, d.quotient);
  const uint64_t logical = task.layout.first + static_cast<uint64_t>(outer.logical) +
                           begin * static_cast<uint64_t>(task.inner_logical);
  const uint32_t phase = static_cast<uint32_t>(logical) & 3;
  functor.put_blocks(samples, logical / 4, (phase + channels * length + 3) / 4);
  __syncthreads();
  char* const data = task.data + (outer.memory + static_cast<int64_t>(begin)) * item_size;
  // Lanes are neighbours in memory.
#pragma unroll 1
  for (uint32_t channel = threadIdx.x; channel < channels; channel += kBlockThreads)
    move_elements(data + channel * item_size, samples + (phase + channel * length) * item_size,
                  length, task.segment_stride * item_size, item_size);
  __syncthreads();
}

}  // namespace fastinit::cuda
