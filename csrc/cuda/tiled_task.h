// A FillTask cut into tiles: the descriptor that kernels read.
//
// Its memory is accessed in one of three ways. `Rows`: the fastest logical dimension is contiguous
// and long. A tile is a stretch of one row; its body is written in vectors, stores of 16 bytes (32
// for float64) whose first element is the first of a Philox block. `Channels`: a convolution's
// weight in channels_last, or what is laid out like one: the fastest logical dimension is short,
// and the next one is contiguous in memory. A tile is a number of channels: one stretch of the
// stream, which is written to shared memory as it comes, and read from there channel by channel.
// `Strided`: everything else. A tile is a number of segments: a few Philox blocks along the fastest
// logical dimension, for one index of the dimension that is fastest in memory. Neighbouring threads
// then write neighbouring elements, one per store, and nothing is transposed in shared memory.
#pragma once

#include <cstdint>

#include "core/philox.h"
#include "core/task.h"
#include "cuda/fast_division.h"

namespace fastinit::cuda {

constexpr int kBlockThreads = 256;

enum class Access : uint8_t { Rows, Channels, Strided };

// Vectors begin ... end - 1 of a row: vector 0 is at `base` and begins at Philox counter `counter`.
// All their counters have the same high word.
struct VectorRange {
  char* base;
  uint64_t counter;
  uint32_t begin, end;
};

// A tile: vectors, which all threads write together, and segments, one per thread at a time.
struct Tile {
  VectorRange vectors;
  uint32_t segments;
  // Of a row: elements begin ... end - 1, of which vectors hold body_begin ... body_end - 1. The
  // segments are groups of four elements, aligned in memory, the first `head_segments` of them
  // before the body.
  uint32_t head_segments;
  char* data;        // of the row
  uint64_t logical;  // index of the element at `data`
  int64_t begin, body_begin, body_end, end;
  // Of strided memory: number of the tile's first segment.
  uint64_t first_segment;
};

// What the host works out of a task once, lest every thread divides and compares for itself. Its
// `layout` keeps the outer dimensions alone, all but the inner one: that is the row, or the one
// along which segments are neighbours. Plain data: by value among a kernel's parameters, or in
// device memory.
struct TiledTask : FillTask {
  Access access;
  uint8_t item_size_log2;
  uint8_t vec_size_log2;  // of the elements of a vector
  bool vectorized;        // whether the kernel has a vectorised loop for this kind and type
  uint32_t tile_size;     // vectors, channels or segments of a tile
  uint64_t tiles;
  uint64_t outer_size;                 // elements of the outer dimensions
  double outer_reciprocals[kMaxDims];  // of their sizes
  int64_t length;                      // of the logical dimension: of a row, or cut into segments
  FastDivisor tiles_per_row;           // or of the channels of an outer index
  // Channel x, or segment x of an outer index, starts x times the inner strides away. Segments are
  // cut from the logical dimension, which is the inner one, or else the last of the outer ones.
  FastDivisor inner_size;
  int64_t inner_memory, inner_logical;
  int64_t segment_size, segment_stride;  // elements, and their stride in memory
  bool inner_is_logical;
  // The tile of a single row, as if it had but one, where the host knows all of it: the row's first
  // tile takes the segments. Otherwise without vectors.
  Tile whole_row;
};

}  // namespace fastinit::cuda
