// A fill task as the kernels see it, and how it is cut into tiles for thread blocks.
//
// Two ways through a layout. `Lines`: the fastest logical dimension is contiguous and long; a tile
// is a stretch of one line, and its middle is written in units of 16 bytes (32 for float64) whose
// first element starts a block of the stream. `Steps`: everything else; a unit is a few blocks
// along the fastest logical dimension for one index of the dimension that is fastest in memory, so
// that neighbouring threads write neighbouring elements, one per store, and no shared memory is
// needed to transpose.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/philox.h"
#include "core/task.h"

namespace fastinit::cuda {

constexpr int kThreads = 256;
// Units of a tile: several per thread, or one where there are too few tiles to go round.
constexpr uint32_t kTileUnits = 2048, kSmallTileUnits = kThreads;
// Elements of a unit of `Steps` along the logical direction, at most.
constexpr int64_t kStepElements = 32;

enum class Path : uint8_t { Lines, Steps };

// A number that is divided by on the device, below 2^52: by way of its inverse, since the processor
// has no 64-bit division and the compiler's takes a subroutine.
struct Divisor {
  uint64_t value;
  double inverse;
};
inline Divisor divisor(uint64_t value) { return {value, 1.0 / static_cast<double>(value)}; }

struct Divided {
  uint64_t quotient, rest;
};
FASTINIT_HD FASTINIT_INLINE Divided divide(uint64_t a, const Divisor& by) {
  Divided d;
  d.quotient = static_cast<uint64_t>(static_cast<double>(a) * by.inverse);
  d.rest = a - d.quotient * by.value;
  // Three roundings, of a quotient below 2^52: off by one at most, either way.
  if (static_cast<int64_t>(d.rest) < 0) {
    --d.quotient;
    d.rest += by.value;
  } else if (d.rest >= by.value) {
    ++d.quotient;
    d.rest -= by.value;
  }
  return d;
}

// One task. Plain data: travels as a kernel parameter or in a table.
struct Record {
  Transform transform;
  char* data;
  uint64_t first;  // logical index of the element at `data`
  uint64_t key;
  Purpose purpose;
  Path path;
  uint8_t item_shift;  // log2 of the bytes of an element
  uint8_t unit_shift;  // log2 of the elements that a thread makes at once in the middle of a line,
  bool has_units;      // where the kernel has an inner loop for this kind and type
  uint32_t tile_units;
  uint64_t tiles;
  // The lines; a line of `Steps` is an index of all dimensions but the inner one.
  uint64_t lines;
  int line_dims;
  Dim dims[kMaxDims];         // slowest first, in elements
  double inverses[kMaxDims];  // of their sizes
  // Lines: elements of a line, and tiles of a line.
  int64_t length;
  Divisor tiles_per_line;
  // Steps: unit x of a line starts x times the inner strides away; elements per unit; length and
  // memory stride of the logical dimension; whether x (or else the last line dimension) moves along
  // it.
  Divisor inner_size;
  int64_t inner_memory, inner_logical;
  int64_t run, run_stride;
  bool inner_moves;
};

// A single task with its round keys.
struct Single {
  Record record;
  PhiloxKeys value, low;
};

inline uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// 16 bytes; 32 where a block of the stream makes as many.
FASTINIT_HD constexpr int unit_elements(int item, bool constant) {
  return item == 8 && !constant ? 4 : 16 / item;
}

inline void plan_lines(const FillTask& task, Record& r, uint64_t units_wanted) {
  const Layout& layout = task.layout;
  const uint64_t unit = uint64_t{1} << r.unit_shift;
  r.path = Path::Lines;
  r.line_dims = layout.ndim > 0 ? layout.ndim - 1 : 0;
  r.lines = 1;
  for (int k = 0; k < r.line_dims; ++k) {
    r.dims[k] = layout.dims[k];
    r.lines *= static_cast<uint64_t>(layout.dims[k].size);
  }
  r.length = layout.ndim > 0 ? layout.dims[layout.ndim - 1].size : 1;
  // A line may begin inside its first unit.
  const uint64_t units = ceil_div(static_cast<uint64_t>(r.length) + unit - 1, unit);
  r.tile_units = units * r.lines < units_wanted ? kSmallTileUnits : kTileUnits;
  r.tiles_per_line = divisor(ceil_div(units, r.tile_units));
  r.tiles = r.lines * r.tiles_per_line.value;
}

inline void plan_steps(const FillTask& task, Record& r, uint64_t units_wanted) {
  const Layout& layout = task.layout;
  r.path = Path::Steps;
  // The logical direction: the last dimension, unless its elements are not neighbours in the
  // stream (a shard of the last dimension of a complex tensor), or there is none.
  const bool has_run = layout.ndim > 0 && layout.dims[layout.ndim - 1].logical == 1;
  const int run_dim = has_run ? layout.ndim - 1 : -1;
  const Dim run = has_run ? layout.dims[run_dim] : Dim{1, 1, 1};
  int fastest = -1;
  for (int k = 0; k < layout.ndim; ++k)
    if (fastest < 0 || layout.dims[k].memory < layout.dims[fastest].memory) fastest = k;
  r.length = run.size;
  r.run_stride = run.memory;
  r.inner_moves = fastest == run_dim;
  r.run = r.inner_moves ? 4 : run.size < kStepElements ? run.size : kStepElements;
  const int64_t pieces =
      static_cast<int64_t>(ceil_div(static_cast<uint64_t>(run.size), static_cast<uint64_t>(r.run)));
  const Dim piece = {pieces, run.memory * r.run, r.run};
  const Dim inner = r.inner_moves ? piece : layout.dims[fastest];
  r.inner_size = divisor(static_cast<uint64_t>(inner.size));
  r.inner_memory = inner.memory;
  r.inner_logical = inner.logical;
  r.line_dims = 0;
  for (int k = 0; k < layout.ndim; ++k)
    if (k != run_dim && k != fastest) r.dims[r.line_dims++] = layout.dims[k];
  if (!r.inner_moves) r.dims[r.line_dims++] = piece;
  r.lines = 1;
  for (int k = 0; k < r.line_dims; ++k) r.lines *= static_cast<uint64_t>(r.dims[k].size);
  const uint64_t units = r.lines * r.inner_size.value;
  r.tile_units = units * r.run < 4 * units_wanted || r.run > 4 ? kSmallTileUnits : kTileUnits;
  r.tiles = ceil_div(units, r.tile_units);
}

// Whether a sample of -0 may meet the lower bound +0. Comparing leaves it, the processor's maximum
// does not, and the inner loops take the maximum. Sums that are zero are +0; only products below
// the smallest number, and only of tiny scales, leave a -0.
inline bool may_meet_zero(const Transform& t) {
  if (t.dtype == DType::F64 || !t.clamped || t.f32.lo != 0) return false;
  constexpr float tiny = 0x1p-60f;
  if (t.kind == Kind::Uniform) return t.f32.uniform.shift < 0 && t.f32.uniform.scale < tiny;
  return t.kind == Kind::Central && t.f32.central.std < tiny;
}

// Whether the kernel for lists of tasks has an inner loop for it (many.cu).
inline bool is_common(const Transform& t) {
  if (t.kind == Kind::Constant) return true;
  if (may_meet_zero(t)) return false;
  return (t.kind == Kind::Uniform || t.kind == Kind::Normal || t.kind == Kind::Central) &&
         (t.dtype == DType::F32 || t.dtype == DType::BF16 || t.dtype == DType::F16);
}

// `units_wanted`: a task of fewer units is cut into small tiles.
inline Record make_record(const FillTask& task, uint64_t units_wanted) {
  Record r;
  memset(&r, 0, sizeof r);
  r.transform = task.transform;
  r.data = task.data;
  r.first = task.layout.first;
  r.key = task.key;
  r.purpose = task.purpose;
  const Layout& layout = task.layout;
  if (layout.numel() == 0) return r;  // no tiles
  const Dim last = layout.ndim > 0 ? layout.dims[layout.ndim - 1] : Dim{1, 1, 1};
  const bool contiguous = last.memory == 1 && last.logical == 1;
  r.has_units = is_common(task.transform);
  const int item = task.transform.item_size;
  const int unit = unit_elements(item, task.transform.kind == Kind::Constant);
  while (1 << r.item_shift < item) ++r.item_shift;
  while (1 << r.unit_shift < unit) ++r.unit_shift;
  if (contiguous && (layout.ndim <= 1 || last.size >= 2 * kSmallTileUnits * int64_t{unit}))
    plan_lines(task, r, units_wanted);
  else
    plan_steps(task, r, units_wanted);
  for (int k = 0; k < r.line_dims; ++k) r.inverses[k] = 1.0 / static_cast<double>(r.dims[k].size);
  return r;
}

}  // namespace fastinit::cuda
