#include "cpu/tiles.h"

#include <algorithm>
#include <cstring>

#include "cpu/item_types.h"
#include "cpu/transpose.h"

namespace fastinit::cpu {
namespace {

// Fills `count` contiguous elements with one value.
void write_constant(const Transform& t, int64_t count, char* out) {
  const int item = t.item_size;
  bool uniform_bytes = true;
  for (int k = 1; k < item; ++k) uniform_bytes &= t.pattern[k] == t.pattern[0];
  const size_t bytes = static_cast<size_t>(count) * item;
  if (uniform_bytes) {
    memset(out, t.pattern[0], bytes);
    return;
  }
  // Sizes 2, 4, 8, 16 divide 64: repeat the pattern and copy whole lines.
  char line[64];
  for (int k = 0; k < 64; ++k) line[k] = static_cast<char>(t.pattern[k % item]);
  size_t done = 0;
  for (; done + 64 <= bytes; done += 64) memcpy(out + done, line, 64);
  memcpy(out + done, line, bytes - done);
}

void make(const FillTask& task, const Run& run, GenerateRun generate, char* out) {
  if (task.transform.kind != Kind::Constant) return generate(task, run, out);
  for (int64_t r = 0; r < run.rows; ++r)
    write_constant(task.transform, run.count, out + r * run.pitch);
}

// Element (r, c) from from[r * pitch + c] to to[r * row_stride + c * col_stride], strides counted
// in elements; the inner loop runs along the smaller memory stride. T only carries the element's
// size: memory may be aligned to nothing.
template <class T>
void scatter(const char* from, int64_t pitch, char* to, int64_t rows, int64_t cols,
             int64_t row_stride, int64_t col_stride) {
  constexpr int64_t item = sizeof(T);
  const auto copy = [=](int64_t r, int64_t c) {
    memcpy(to + (r * row_stride + c * col_stride) * item, from + (r * pitch + c) * item, item);
  };
  if (row_stride == 1) {
    transpose<T>(from, pitch, to, col_stride, rows, cols);
  } else if (col_stride == 1) {
    for (int64_t r = 0; r < rows; ++r)
      memcpy(to + r * row_stride * item, from + r * pitch * item, cols * item);
  } else if (row_stride < col_stride) {
    for (int64_t c = 0; c < cols; ++c)
      for (int64_t r = 0; r < rows; ++r) copy(r, c);
  } else {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) copy(r, c);
  }
}

void scatter_items(int size, const char* from, int64_t pitch, char* to, int64_t rows, int64_t cols,
                   int64_t row_stride, int64_t col_stride) {
  with_item_type(size, [&](auto item) {
    scatter<decltype(item)>(from, pitch, to, rows, cols, row_stride, col_stride);
  });
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Tiling tiling_of(const FillTask& task) {
  const Layout& layout = task.layout;
  const int item = task.transform.item_size;
  Tiling tiling{};
  tiling.row = tiling.col = {1, 1, 1};
  int col = layout.ndim - 1, row = -1;
  if (col >= 0) {
    tiling.col = layout.dims[col];
    int fastest = col;
    for (int k = 0; k < layout.ndim; ++k)
      if (layout.dims[k].memory < layout.dims[fastest].memory) fastest = k;
    row = fastest != col ? fastest : col - 1;
    if (row >= 0) tiling.row = layout.dims[row];
  }
  for (int k = 0; k < layout.ndim; ++k)
    if (k != col && k != row) tiling.outer[tiling.outer_count++] = layout.dims[k];

  tiling.direct = tiling.col.memory == 1 && (tiling.col.size >= 256 || tiling.row.size == 1);
  if (tiling.direct) {
    tiling.tile_cols = std::min(tiling.col.size, kDirectElements);
    tiling.tile_rows =
        std::min(tiling.row.size, std::max<int64_t>(1, kDirectElements / tiling.tile_cols));
  } else {
    const bool one_run = tiling.row.logical == tiling.col.size * tiling.col.logical;
    const int64_t room = kRunBytes / item;
    if (tiling.row.size == 1 || (one_run && tiling.col.size <= room / 32)) {
      tiling.tile_cols = std::min(tiling.col.size, room);
      tiling.tile_rows = std::min(tiling.row.size, room / tiling.tile_cols);
    } else {
      // Whole cache lines along the rows, and at most kScratchBytes: 256 bytes of rows at eight
      // bytes an element, and never more than 128 rows.
      tiling.tile_cols = std::min(tiling.col.size, kTransposedCols);
      tiling.tile_rows = std::min<int64_t>(tiling.row.size, item >= 8   ? 256 / item
                                                            : item == 4 ? 64
                                                                        : 128);
    }
  }
  tiling.row_tiles = ceil_div(tiling.row.size, tiling.tile_rows);
  tiling.col_tiles = ceil_div(tiling.col.size, tiling.tile_cols);
  tiling.tiles = tiling.row_tiles * tiling.col_tiles;
  for (int k = 0; k < tiling.outer_count; ++k) tiling.tiles *= tiling.outer[k].size;
  return tiling;
}

void write_tile(const FillTask& task, const Tiling& tiling, int64_t tile, GenerateRun generate,
                char* scratch) {
  const int item = task.transform.item_size;
  // Along the faster dimension of memory first: the next tile's rows lie in the same pages.
  const bool along_rows = tiling.row.memory < tiling.col.memory;
  const int64_t inner = along_rows ? tiling.row_tiles : tiling.col_tiles;
  const int64_t outer = along_rows ? tiling.col_tiles : tiling.row_tiles;
  const int64_t first = tile % inner, second = tile / inner % outer;
  tile /= inner * outer;
  const int64_t c0 = (along_rows ? second : first) * tiling.tile_cols;
  const int64_t r0 = (along_rows ? first : second) * tiling.tile_rows;
  int64_t address = r0 * tiling.row.memory + c0 * tiling.col.memory;
  uint64_t logical = task.layout.first + static_cast<uint64_t>(r0 * tiling.row.logical) +
                     static_cast<uint64_t>(c0 * tiling.col.logical);
  for (int k = tiling.outer_count - 1; k >= 0; --k) {
    const Dim& d = tiling.outer[k];
    const int64_t at = tile % d.size;
    tile /= d.size;
    address += at * d.memory;
    logical += static_cast<uint64_t>(at * d.logical);
  }
  char* const out = task.data + address * item;
  const int64_t rows = std::min(tiling.tile_rows, tiling.row.size - r0);
  const int64_t cols = std::min(tiling.tile_cols, tiling.col.size - c0);
  const uint64_t row_step = static_cast<uint64_t>(tiling.row.logical);
  const bool whole = tiling.row.logical == cols && tiling.col.logical == 1;  // the tile is one run
  // What a tile that goes through scratch ends in.
  MemoryRows ends_in{};
  if (tiling.row.memory == 1) ends_in = {out, rows * item, tiling.col.memory * item};
  if (tiling.col.memory == 1) ends_in = {out, cols * item, tiling.row.memory * item};
  if (tiling.col.logical != 1 && cols > 1) {
    // Only a shard of a complex tensor's last dimension has such columns: runs of one element.
    for (int64_t r = 0; r < rows; ++r)
      make(task,
           {logical + static_cast<uint64_t>(r) * row_step, 1, cols,
            static_cast<uint64_t>(tiling.col.logical), tiling.col.memory * item},
           generate, out + r * tiling.row.memory * item);
  } else if (tiling.direct) {
    make(task, {logical, cols, rows, row_step, tiling.row.memory * item}, generate, out);
  } else if (whole || rows == 1) {
    make(task, {logical, rows * cols, 1, 0, 0, ends_in}, generate, scratch);
    scatter_items(item, scratch, cols, out, rows, cols, tiling.row.memory, tiling.col.memory);
  } else {
    // An odd number of cache lines a row, so that a column of the tile meets every cache set.
    const int64_t lines = (cols * item + 63) / 64 | 1;
    const int64_t pitch = lines * 64 / item;
    make(task, {logical, cols, rows, row_step, lines * 64, ends_in}, generate, scratch);
    scatter_items(item, scratch, pitch, out, rows, cols, tiling.row.memory, tiling.col.memory);
  }
}

}  // namespace fastinit::cpu
