#include "cpu/tiles.h"

#include <algorithm>
#include <cstring>

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
  // Sizes 2, 4, 8, 16 divide 64: repeat the pattern and copy whole blocks.
  char block[64];
  for (int k = 0; k < 64; ++k) block[k] = static_cast<char>(t.pattern[k % item]);
  size_t done = 0;
  for (; done + 64 <= bytes; done += 64) memcpy(out + done, block, 64);
  memcpy(out + done, block, bytes - done);
}

void make(const FillTask& task, uint64_t first, int64_t count, GenerateRun generate, char* out) {
  if (task.transform.kind == Kind::Constant)
    write_constant(task.transform, count, out);
  else
    generate(task, first, count, out);
}

// to[r * row_stride + c * col_stride] = from[r * cols + c]; the inner loop runs along the smaller
// memory stride. T only carries the element's size.
template <class T>
void scatter(const char* from_bytes, char* to_bytes, int64_t rows, int64_t cols, int64_t row_stride,
             int64_t col_stride) {
  const T* from = reinterpret_cast<const T*>(from_bytes);
  T* to = reinterpret_cast<T*>(to_bytes);
  if (row_stride == 1) {
    for (int64_t c = 0; c < cols; ++c)
      for (int64_t r = 0; r < rows; ++r) to[c * col_stride + r] = from[r * cols + c];
  } else if (col_stride == 1) {
    for (int64_t r = 0; r < rows; ++r)
      memcpy(to + r * row_stride, from + r * cols, cols * sizeof(T));
  } else if (row_stride < col_stride) {
    for (int64_t c = 0; c < cols; ++c)
      for (int64_t r = 0; r < rows; ++r) to[c * col_stride + r * row_stride] = from[r * cols + c];
  } else {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) to[r * row_stride + c * col_stride] = from[r * cols + c];
  }
}

struct Bytes16 {
  uint64_t half[2];
};

void scatter_items(int item, const char* from, char* to, int64_t rows, int64_t cols,
                   int64_t row_stride, int64_t col_stride) {
  switch (item) {
    case 1:
      return scatter<uint8_t>(from, to, rows, cols, row_stride, col_stride);
    case 2:
      return scatter<uint16_t>(from, to, rows, cols, row_stride, col_stride);
    case 4:
      return scatter<uint32_t>(from, to, rows, cols, row_stride, col_stride);
    case 8:
      return scatter<uint64_t>(from, to, rows, cols, row_stride, col_stride);
    default:
      return scatter<Bytes16>(from, to, rows, cols, row_stride, col_stride);
  }
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

TilePlan plan_tiles(const FillTask& task) {
  const Layout& layout = task.layout;
  const int item = task.transform.item_size;
  TilePlan plan{};
  plan.row = plan.col = {1, 1, 1};
  int col = layout.ndim - 1, row = -1;
  if (col >= 0) {
    plan.col = layout.dims[col];
    int fastest = col;
    for (int k = 0; k < layout.ndim; ++k)
      if (layout.dims[k].memory < layout.dims[fastest].memory) fastest = k;
    row = fastest != col ? fastest : col - 1;
    if (row >= 0) plan.row = layout.dims[row];
  }
  for (int k = 0; k < layout.ndim; ++k)
    if (k != col && k != row) plan.outer[plan.outer_count++] = layout.dims[k];

  plan.direct = plan.col.memory == 1 && (plan.col.size >= 256 || plan.row.size == 1);
  if (plan.direct) {
    plan.tile_cols = std::min(plan.col.size, kDirectElements);
    plan.tile_rows =
        std::min(plan.row.size, std::max<int64_t>(1, kDirectElements / plan.tile_cols));
  } else {
    const int64_t room = kScratchBytes / item;
    // Long enough runs of the stream, and enough rows for whole cache lines of memory.
    plan.tile_cols = std::min<int64_t>(plan.col.size, 128);
    plan.tile_rows = std::min(plan.row.size, std::max<int64_t>(1, room / plan.tile_cols));
    plan.tile_cols = std::min(plan.col.size, room / plan.tile_rows);
  }
  plan.row_tiles = ceil_div(plan.row.size, plan.tile_rows);
  plan.col_tiles = ceil_div(plan.col.size, plan.tile_cols);
  plan.tiles = plan.row_tiles * plan.col_tiles;
  for (int k = 0; k < plan.outer_count; ++k) plan.tiles *= plan.outer[k].size;
  return plan;
}

void write_tile(const FillTask& task, const TilePlan& plan, int64_t tile, GenerateRun generate,
                char* scratch) {
  const int item = task.transform.item_size;
  const int64_t c0 = tile % plan.col_tiles * plan.tile_cols;
  tile /= plan.col_tiles;
  const int64_t r0 = tile % plan.row_tiles * plan.tile_rows;
  tile /= plan.row_tiles;
  int64_t address = r0 * plan.row.memory + c0 * plan.col.memory;
  uint64_t logical = task.layout.first + static_cast<uint64_t>(r0 * plan.row.logical) +
                     static_cast<uint64_t>(c0 * plan.col.logical);
  for (int k = plan.outer_count - 1; k >= 0; --k) {
    const Dim& d = plan.outer[k];
    const int64_t at = tile % d.size;
    tile /= d.size;
    address += at * d.memory;
    logical += static_cast<uint64_t>(at * d.logical);
  }
  char* const out = task.data + address * item;
  const int64_t rows = std::min(plan.tile_rows, plan.row.size - r0);
  const int64_t cols = std::min(plan.tile_cols, plan.col.size - c0);
  // A logical stride other than one along a row exists only in shards cut across the last
  // dimensions of a complex view; there every element is a run of its own.
  const bool runs = plan.col.logical == 1 || cols == 1;
  if (plan.direct && runs) {
    for (int64_t r = 0; r < rows; ++r)
      make(task, logical + static_cast<uint64_t>(r * plan.row.logical), cols, generate,
           out + r * plan.row.memory * item);
    return;
  }
  if (!runs) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c)
        make(task, logical + static_cast<uint64_t>(r * plan.row.logical + c * plan.col.logical), 1,
             generate, out + (r * plan.row.memory + c * plan.col.memory) * item);
    return;
  }
  if (plan.row.logical == cols || rows == 1) {  // the whole tile is one run of the stream
    make(task, logical, rows * cols, generate, scratch);
  } else {
    for (int64_t r = 0; r < rows; ++r)
      make(task, logical + static_cast<uint64_t>(r * plan.row.logical), cols, generate,
           scratch + r * cols * item);
  }
  scatter_items(item, scratch, out, rows, cols, plan.row.memory, plan.col.memory);
}

}  // namespace fastinit::cpu
