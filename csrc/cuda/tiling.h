// How a task is cut into tiles for thread blocks. The host makes the TiledTask; where a row's tile
// begins and ends is worked out on either side, for the host does it for a single row.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/tiled_task.h"

namespace fastinit::cuda {

// Vectors or segments of a tile: one per thread where there are few, otherwise whole rounds of the
// vectorised loops, which take up to four per thread.
constexpr uint32_t kSmallTileSize = kBlockThreads, kRoundSize = 4 * kBlockThreads;
// At most, in a list of tasks, whose thread blocks have even shares of tiles; and in a single task.
constexpr uint32_t kTileSize = 2 * kRoundSize, kLargeTileSize = 8 * kRoundSize;
// Thread blocks that fill a multiprocessor, and those a large task is cut for.
constexpr uint64_t kResidentBlocks = 8, kTargetBlocks = 16;
// Elements of a segment, at most.
constexpr int64_t kSegmentElements = 32;
// Shared memory for the elements of a tile of channels, and how many of these a tile has at least:
// as many as a warp writes side by side.
constexpr int64_t kChannelBytes = 16384, kLeastChannels = 32;
// Half of the width of shared memory's banks.
constexpr int64_t kHalfOfBanks = 64;

inline uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// Of the vectors of a launch, how many make a tile.
inline uint32_t tile_size_for(uint64_t vectors, uint64_t multiprocessors, uint32_t most) {
  if (vectors < multiprocessors * kResidentBlocks * kRoundSize) return kSmallTileSize;
  const uint64_t rounds = vectors / (multiprocessors * kTargetBlocks * kRoundSize);
  const uint64_t wanted = (rounds > 0 ? rounds : 1) * kRoundSize;
  return wanted < most ? static_cast<uint32_t>(wanted) : most;
}

// Elements of a vector: 16 bytes, or 32 where a Philox block makes as many.
FASTINIT_HD constexpr int vec_size_for(int item_size, bool constant) {
  return item_size == 8 && !constant ? 4 : 16 / item_size;
}

// A row may begin inside its first vector.
inline uint64_t row_vectors(const TiledTask& tiled) {
  const uint64_t vec_size = uint64_t{1} << tiled.vec_size_log2;
  return ceil_div(static_cast<uint64_t>(tiled.length) + vec_size - 1, vec_size);
}

inline void tile_rows(const FillTask& task, TiledTask& tiled, uint32_t tile_size) {
  const Layout& layout = task.layout;
  tiled.access = Access::Rows;
  if (layout.ndim > 0) --tiled.layout.ndim;
  tiled.outer_size = static_cast<uint64_t>(tiled.layout.numel());
  tiled.length = layout.ndim > 0 ? layout.dims[layout.ndim - 1].size : 1;
  tiled.tile_size = tile_size;
  tiled.tiles_per_row = fast_divisor(ceil_div(row_vectors(tiled), tiled.tile_size));
  tiled.tiles = tiled.outer_size * tiled.tiles_per_row.value;
}

// Channels that a tile may have, whose elements begin and end within Philox blocks.
inline int64_t most_channels(const FillTask& task, int64_t elements) {
  return (kChannelBytes / task.transform.item_size - 6) / elements;
}

// Whether a task's last two dimensions are one stretch of the stream, channel by channel, of which
// memory has the channels side by side.
inline bool has_channels(const FillTask& task) {
  const Layout& layout = task.layout;
  if (task.transform.kind == Kind::Constant || layout.ndim < 2) return false;
  const Dim& channels = layout.dims[layout.ndim - 2];
  const Dim& last = layout.dims[layout.ndim - 1];
  // Lanes would read from the same one or two banks. These are whole Philox blocks, mostly, and
  // quick as segments.
  if (last.size * task.transform.item_size % kHalfOfBanks == 0) return false;
  return last.logical == 1 && channels.logical == last.size && channels.memory == 1 &&
         channels.size >= kLeastChannels && most_channels(task, last.size) >= kLeastChannels;
}

inline void tile_channels(const FillTask& task, TiledTask& tiled) {
  const Layout& layout = task.layout;
  const Dim& channels = layout.dims[layout.ndim - 2];
  const Dim& last = layout.dims[layout.ndim - 1];
  tiled.access = Access::Channels;
  tiled.layout.ndim -= 2;
  tiled.outer_size = static_cast<uint64_t>(tiled.layout.numel());
  tiled.length = last.size;
  tiled.segment_stride = last.memory;
  tiled.inner_size = fast_divisor(static_cast<uint64_t>(channels.size));
  tiled.inner_memory = channels.memory;
  tiled.inner_logical = channels.logical;
  // Even shares, of whole warps' widths.
  const auto size = static_cast<uint64_t>(channels.size), warp = uint64_t{kLeastChannels};
  const uint64_t most = static_cast<uint64_t>(most_channels(task, last.size)) / warp * warp;
  const uint64_t share = ceil_div(size, ceil_div(size, most));
  tiled.tile_size = static_cast<uint32_t>(ceil_div(share, warp) * warp);
  tiled.tiles_per_row = fast_divisor(ceil_div(size, tiled.tile_size));
  tiled.tiles = tiled.outer_size * tiled.tiles_per_row.value;
}

inline void tile_strided(const FillTask& task, TiledTask& tiled, uint32_t tile_size) {
  const Layout& layout = task.layout;
  tiled.access = Access::Strided;
  // The logical dimension: the last one, unless its logical indices are not consecutive (a shard of
  // the last dimension of a complex tensor), or there is none.
  const bool has_logical = layout.ndim > 0 && layout.dims[layout.ndim - 1].logical == 1;
  const int logical_dim = has_logical ? layout.ndim - 1 : -1;
  const Dim logical = has_logical ? layout.dims[logical_dim] : Dim{1, 1, 1};
  int fastest = -1;
  for (int k = 0; k < layout.ndim; ++k)
    if (fastest < 0 || layout.dims[k].memory < layout.dims[fastest].memory) fastest = k;
  tiled.length = logical.size;
  tiled.segment_stride = logical.memory;
  tiled.inner_is_logical = fastest == logical_dim;
  tiled.segment_size = tiled.inner_is_logical            ? 4
                       : logical.size < kSegmentElements ? logical.size
                                                         : kSegmentElements;
  const int64_t segments = static_cast<int64_t>(
      ceil_div(static_cast<uint64_t>(logical.size), static_cast<uint64_t>(tiled.segment_size)));
  const Dim cut = {segments, logical.memory * tiled.segment_size, tiled.segment_size};
  const Dim inner = tiled.inner_is_logical ? cut : layout.dims[fastest];
  tiled.inner_size = fast_divisor(static_cast<uint64_t>(inner.size));
  tiled.inner_memory = inner.memory;
  tiled.inner_logical = inner.logical;
  Layout& outer = tiled.layout;
  outer.ndim = 0;
  for (int k = 0; k < layout.ndim; ++k)
    if (k != logical_dim && k != fastest) outer.dims[outer.ndim++] = layout.dims[k];
  if (!tiled.inner_is_logical) outer.dims[outer.ndim++] = cut;
  tiled.outer_size = static_cast<uint64_t>(outer.numel());
  tiled.tile_size = tiled.segment_size > 4  ? kSmallTileSize
                    : tile_size < kTileSize ? tile_size
                                            : kTileSize;
  tiled.tiles = ceil_div(tiled.outer_size * tiled.inner_size.value, tiled.tile_size);
}

// Offsets of an outer index from the task's first element, in elements.
struct Offsets {
  int64_t memory, logical, last;  // last: the index of the last outer dimension
};
FASTINIT_HD FASTINIT_INLINE Offsets outer_offsets(const TiledTask& tiled, uint64_t outer) {
  Offsets offsets{0, 0, 0};
  FASTINIT_KEEP_LOOP
  for (int k = tiled.layout.ndim - 1; k >= 0; --k) {
    const Dim& dim = tiled.layout.dims[k];
    int64_t at = static_cast<int64_t>(outer);
    if (k > 0) {
      const DivMod d = divmod(outer, {static_cast<uint64_t>(dim.size), tiled.outer_reciprocals[k]});
      at = static_cast<int64_t>(d.remainder);
      outer = d.quotient;
    }
    if (k == tiled.layout.ndim - 1) offsets.last = at;
    offsets.memory += at * dim.memory;
    offsets.logical += at * dim.logical;
  }
  return offsets;
}

// Where the group of four that holds element `at` begins.
FASTINIT_HD FASTINIT_INLINE int64_t group_start(const char* data, uint32_t item_size_log2,
                                                int64_t at) {
  const auto first = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(data) >> item_size_log2);
  return at - ((first + static_cast<uint32_t>(at)) & (item_size_log2 == 3 ? 1 : 3));
}

// Tile `number` of a task whose access is by rows.
FASTINIT_HD FASTINIT_INLINE Tile row_tile(const TiledTask& tiled, uint64_t number,
                                          uint64_t tile_size) {
  const uint32_t item_size = 1u << tiled.item_size_log2, vec_size = 1u << tiled.vec_size_log2;
  const bool constant = tiled.transform.kind == Kind::Constant;
  Tile tile{};
  Offsets offsets{0, 0, 0};
  if (tiled.outer_size > 1) {
    const DivMod d = divmod(number, tiled.tiles_per_row);
    number = d.remainder;
    offsets = outer_offsets(tiled, d.quotient);
  }
  tile.data = tiled.data + offsets.memory * item_size;
  tile.logical = tiled.layout.first + static_cast<uint64_t>(offsets.logical);
  const uint64_t address = reinterpret_cast<uintptr_t>(tile.data);

  // Elements of the first vector that lie before the row, so that vectors are aligned and start
  // Philox blocks.
  uint32_t before = static_cast<uint32_t>(address >> tiled.item_size_log2) & (vec_size - 1);
  bool has_body = (address & (item_size - 1)) == 0;
  if (!constant) {
    if (item_size == 8) before = static_cast<uint32_t>(tile.logical) & 3;
    has_body = has_body && ((static_cast<uint32_t>(tile.logical) - before) & 3) == 0 &&
               ((address - before * item_size) & 15) == 0;
  }
  // The tile starts here, counted in elements of the row, perhaps before it.
  const int64_t start = static_cast<int64_t>(number * tile_size << tiled.vec_size_log2) - before;
  const int64_t tile_end = start + (static_cast<int64_t>(tile_size) << tiled.vec_size_log2);
  tile.begin = start < 0 ? 0 : start;
  tile.end = tile_end < tiled.length ? tile_end : tiled.length;
  if (tile.begin >= tile.end) return tile;
  const uint32_t begin = start < 0 ? 1 : 0,
                 end = static_cast<uint32_t>((tile.end - start) >> tiled.vec_size_log2);
  has_body = has_body && tiled.vectorized && begin < end;
  // Of the tile's first vector; modulo 2^64 where that lies before element 0.
  const uint64_t counter =
      (tile.logical + static_cast<uint64_t>(start) + vec_size) / 4 - vec_size / 4;
  if (!constant) {
    const uint32_t counters = vec_size / 4;  // of a vector
    has_body =
        has_body && (counter + begin * counters) >> 32 == (counter + end * counters - 1) >> 32;
  }
  tile.body_begin = tile.body_end = tile.end;
  if (has_body) {
    tile.body_begin = start + static_cast<int64_t>(begin) * vec_size;
    tile.body_end = start + static_cast<int64_t>(end) * vec_size;
    tile.vectors = {tile.data + start * item_size, counter, begin, end};
  }
  const auto segments_between = [&](int64_t from, int64_t to) {
    return static_cast<uint32_t>(to - group_start(tile.data, tiled.item_size_log2, from) + 3) / 4;
  };
  if (tile.body_begin > tile.begin)
    tile.head_segments = segments_between(tile.begin, tile.body_begin);
  tile.segments = tile.head_segments;
  if (tile.end > tile.body_end) tile.segments += segments_between(tile.body_end, tile.end);
  return tile;
}

// What is the same for all tiles of a single row, once its vectors are known to be wanted.
inline void tile_whole_row(TiledTask& tiled) {
  if (tiled.access != Access::Rows || tiled.outer_size != 1 || !tiled.vectorized) return;
  const uint64_t vectors = row_vectors(tiled);
  if (vectors < uint64_t{1} << 31) tiled.whole_row = row_tile(tiled, 0, vectors);
}

// Whether a sample of -0 may meet the lower bound +0. Comparing leaves it, the processor's maximum
// does not, and the vectorised loops take the maximum. Sums that are zero are +0; only products
// below the smallest number, and only of tiny scales, leave a -0.
inline bool may_clamp_negative_zero(const Transform& t) {
  if (t.dtype == DType::F64 || !t.clamped || t.f32.lo != 0) return false;
  constexpr float tiny = 0x1p-60f;
  if (t.kind == Kind::Uniform) return t.f32.uniform.shift < 0 && t.f32.uniform.scale < tiny;
  return t.kind == Kind::Central && t.f32.central.std < tiny;
}

// Whether the kernel for lists of tasks has a vectorised loop for it (multi_task.cu).
inline bool has_vector_loop(const Transform& t) {
  if (t.kind == Kind::Constant) return true;
  if (may_clamp_negative_zero(t)) return false;
  return (t.kind == Kind::Uniform || t.kind == Kind::Normal || t.kind == Kind::Central) &&
         (t.dtype == DType::F32 || t.dtype == DType::BF16 || t.dtype == DType::F16);
}

// Vectors of a task, about: how its tiles are cut depends on all of a launch.
inline uint64_t vectors_of(const FillTask& task) {
  const bool constant = task.transform.kind == Kind::Constant;
  const auto vec_size = static_cast<uint64_t>(vec_size_for(task.transform.item_size, constant));
  return ceil_div(static_cast<uint64_t>(task.layout.numel()), vec_size);
}

inline TiledTask tile_task(const FillTask& task, uint32_t tile_size) {
  TiledTask tiled;
  memset(&tiled, 0, sizeof tiled);
  static_cast<FillTask&>(tiled) = task;
  const Layout& layout = task.layout;
  if (layout.numel() == 0) return tiled;  // no tiles
  const Dim last = layout.ndim > 0 ? layout.dims[layout.ndim - 1] : Dim{1, 1, 1};
  const bool contiguous = last.memory == 1 && last.logical == 1;
  tiled.vectorized = has_vector_loop(task.transform);
  const int item_size = task.transform.item_size;
  const int vec_size = vec_size_for(item_size, task.transform.kind == Kind::Constant);
  while (1 << tiled.item_size_log2 < item_size) ++tiled.item_size_log2;
  while (1 << tiled.vec_size_log2 < vec_size) ++tiled.vec_size_log2;
  if (contiguous && (layout.ndim <= 1 || last.size >= 2 * kSmallTileSize * int64_t{vec_size}))
    tile_rows(task, tiled, tile_size);
  else if (has_channels(task))
    tile_channels(task, tiled);
  else
    tile_strided(task, tiled, tile_size);
  for (int k = 0; k < tiled.layout.ndim; ++k)
    tiled.outer_reciprocals[k] = 1.0 / static_cast<double>(tiled.layout.dims[k].size);
  tile_whole_row(tiled);
  return tiled;
}

}  // namespace fastinit::cuda
