// How a task is cut into tiles, and how one tile is written.
//
// A tile is rows x cols elements: `cols` runs along the fastest logical dimension, `rows` along the
// dimension that is fastest in memory (or, where that is the same one, the next slower logical
// one). Elements are generated in logical order, straight into memory when a row is contiguous
// there, otherwise into a scratch buffer that stays in the first-level cache and is scattered from
// there.
#pragma once

#include <cstdint>

#include "core/task.h"
#include "cpu/dispatch.h"

namespace fastinit::cpu {

struct Tiling {
  Dim row, col;         // size 1 where there is no such dimension
  Dim outer[kMaxDims];  // the rest, slowest first
  int outer_count;
  int64_t tile_rows, tile_cols;
  int64_t row_tiles, col_tiles;  // per outer index
  int64_t tiles;                 // in all
  bool direct;                   // rows are contiguous in memory and long enough to write in place
};

// Scratch of one worker: a tile that is transposed on its way to memory stays in the second-level
// cache. Tiles of one run of the stream use a quarter of the first-level cache only.
constexpr int64_t kScratchBytes = 128 * 1024;
constexpr int64_t kRunBytes = 16 * 1024;
// Columns of a transposed tile: four steps of the widest batch less the block a run may straddle.
constexpr int64_t kTransposedCols = 380;
// Elements of a tile written in place: large enough to hide the per-tile work, small enough to
// share, and whole batches of every capability (960 and 1024).
constexpr int64_t kDirectElements = 2 * 15 * 1024;

Tiling tiling_of(const FillTask& task);

// Writes tile number `tile`; `scratch` has kScratchBytes, aligned to 64.
void write_tile(const FillTask& task, const Tiling& tiling, int64_t tile, GenerateRun generate,
                char* scratch);

}  // namespace fastinit::cpu
