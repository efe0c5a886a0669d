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
// Units of a tile: one per thread where there are few, otherwise whole rounds of the inner loops,
// which take up to four per thread.
constexpr uint32_t kSmallTileUnits = kThreads, kRoundUnits = 4 * kThreads;
// At most, in a list of tasks, whose thread blocks have even shares of tiles; and in a single task.
constexpr uint32_t kTileUnits = 2 * kRoundUnits, kLargeTileUnits = 8 * kRoundUnits;
// Thread blocks that fill a multiprocessor, and those a large task is cut for.
constexpr uint64_t kBlocksAtOnce = 8, kBlocksWanted = 16;
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

// Whole units first ... end - 1 of a line: unit 0 starts at `origin`, in block `block` of the
// stream. All blocks have the same high counter word.
struct Units {
  char* origin;
  uint64_t block;
  uint32_t first, end;
};

// A tile: units for Program::write_units, and `count` works for the threads one by one.
struct Tile {
  Units units;
  uint32_t count;
  // Of a line: the works are groups of four elements, aligned in memory, the first `front` of them
  // before the units (elements begin ... middle - 1), the others behind (behind ... end - 1).
  uint32_t front;
  char* data;
  uint64_t logical;
  int64_t begin, middle, behind, end;
  // Of steps: the tile's first.
  uint64_t first_step;
};

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
  // A single line, as one tile, where nothing has to be looked at for each of its tiles: the first
  // of them takes the works. Otherwise without units.
  Tile line;
};

// A single task with its round keys.
struct Single {
  Record record;
  PhiloxKeys value, low;
};

inline uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// Of `units` in a launch, how many make a tile.
inline uint32_t tile_units_for(uint64_t units, uint64_t processors, uint32_t most) {
  if (units < processors * kBlocksAtOnce * kRoundUnits) return kSmallTileUnits;
  const uint64_t rounds = units / (processors * kBlocksWanted * kRoundUnits);
  const uint64_t wanted = (rounds > 0 ? rounds : 1) * kRoundUnits;
  return wanted < most ? static_cast<uint32_t>(wanted) : most;
}

// 16 bytes; 32 where a block of the stream makes as many.
FASTINIT_HD constexpr int unit_elements(int item, bool constant) {
  return item == 8 && !constant ? 4 : 16 / item;
}

// A line may begin inside its first unit.
inline uint64_t units_of_line(const Record& r) {
  const uint64_t unit = uint64_t{1} << r.unit_shift;
  return ceil_div(static_cast<uint64_t>(r.length) + unit - 1, unit);
}

inline void plan_lines(const FillTask& task, Record& r, uint32_t tile_units) {
  const Layout& layout = task.layout;
  r.path = Path::Lines;
  r.line_dims = layout.ndim > 0 ? layout.ndim - 1 : 0;
  r.lines = 1;
  for (int k = 0; k < r.line_dims; ++k) {
    r.dims[k] = layout.dims[k];
    r.lines *= static_cast<uint64_t>(layout.dims[k].size);
  }
  r.length = layout.ndim > 0 ? layout.dims[layout.ndim - 1].size : 1;
  r.tile_units = tile_units;
  r.tiles_per_line = divisor(ceil_div(units_of_line(r), r.tile_units));
  r.tiles = r.lines * r.tiles_per_line.value;
}

inline void plan_steps(const FillTask& task, Record& r, uint32_t tile_units) {
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
  r.tile_units = r.run > 4 ? kSmallTileUnits : tile_units < kTileUnits ? tile_units : kTileUnits;
  r.tiles = ceil_div(units, r.tile_units);
}

// Memory and logical offset of line `line`, both in elements.
struct Place {
  int64_t memory, logical, last;  // last: the index of the last dimension
};
FASTINIT_HD FASTINIT_INLINE Place place_of(const Record& r, uint64_t line) {
  Place p{0, 0, 0};
  FASTINIT_KEEP_LOOP
  for (int k = r.line_dims - 1; k >= 0; --k) {
    int64_t at = static_cast<int64_t>(line);
    if (k > 0) {
      const Divided d = divide(line, {static_cast<uint64_t>(r.dims[k].size), r.inverses[k]});
      at = static_cast<int64_t>(d.rest);
      line = d.quotient;
    }
    if (k == r.line_dims - 1) p.last = at;
    p.memory += at * r.dims[k].memory;
    p.logical += at * r.dims[k].logical;
  }
  return p;
}

// Where the group of four that holds element `at` begins.
FASTINIT_HD FASTINIT_INLINE int64_t group_start(const char* data, uint32_t item_shift, int64_t at) {
  const auto first = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(data) >> item_shift);
  return at - ((first + static_cast<uint32_t>(at)) & (item_shift == 3 ? 1 : 3));
}

FASTINIT_HD FASTINIT_INLINE Tile tile_of_lines(const Record& r, uint64_t number,
                                               uint64_t tile_units) {
  const uint32_t item = 1u << r.item_shift, unit = 1u << r.unit_shift;
  const bool constant = r.transform.kind == Kind::Constant;
  Tile tile{};
  Place place{0, 0, 0};
  if (r.lines > 1) {
    const Divided d = divide(number, r.tiles_per_line);
    number = d.rest;
    place = place_of(r, d.quotient);
  }
  tile.data = r.data + place.memory * item;
  tile.logical = r.first + static_cast<uint64_t>(place.logical);
  const uint64_t address = reinterpret_cast<uintptr_t>(tile.data);

  // Elements of the first unit that lie before the line, so that units are aligned and start
  // blocks.
  uint32_t before = static_cast<uint32_t>(address >> r.item_shift) & (unit - 1);
  bool whole = (address & (item - 1)) == 0;
  if (!constant) {
    if (item == 8) before = static_cast<uint32_t>(tile.logical) & 3;
    whole = whole && ((static_cast<uint32_t>(tile.logical) - before) & 3) == 0 &&
            ((address - before * item) & 15) == 0;
  }
  // The tile starts here, counted in elements of the line, perhaps before it.
  const int64_t start = static_cast<int64_t>(number * tile_units << r.unit_shift) - before;
  const int64_t tile_end = start + (static_cast<int64_t>(tile_units) << r.unit_shift);
  tile.begin = start < 0 ? 0 : start;
  tile.end = tile_end < r.length ? tile_end : r.length;
  if (tile.begin >= tile.end) return tile;
  const uint32_t first = start < 0 ? 1 : 0,
                 end = static_cast<uint32_t>((tile.end - start) >> r.unit_shift);
  whole = whole && r.has_units && first < end;
  // The block of the tile's first unit; modulo 2^64 where that lies before the stream.
  const uint64_t block = (tile.logical + static_cast<uint64_t>(start) + unit) / 4 - unit / 4;
  if (!constant) {
    const uint32_t blocks = unit / 4;
    whole = whole && (block + first * blocks) >> 32 == (block + end * blocks - 1) >> 32;
  }
  tile.middle = tile.behind = tile.end;
  if (whole) {
    tile.middle = start + static_cast<int64_t>(first) * unit;
    tile.behind = start + static_cast<int64_t>(end) * unit;
    tile.units = {tile.data + start * item, block, first, end};
  }
  if (tile.middle > tile.begin)
    tile.front =
        static_cast<uint32_t>(tile.middle - group_start(tile.data, r.item_shift, tile.begin) + 3) /
        4;
  tile.count = tile.front;
  if (tile.end > tile.behind)
    tile.count +=
        static_cast<uint32_t>(tile.end - group_start(tile.data, r.item_shift, tile.behind) + 3) / 4;
  return tile;
}

// What is the same for all tiles of a single line, once its units are known to be wanted.
inline void plan_line(Record& r) {
  if (r.path != Path::Lines || r.lines != 1 || !r.has_units) return;
  const uint64_t units = units_of_line(r);
  if (units < uint64_t{1} << 31) r.line = tile_of_lines(r, 0, units);
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

// Units of a task, about: how its tiles are cut depends on all of a launch.
inline uint64_t units_of(const FillTask& task) {
  const bool constant = task.transform.kind == Kind::Constant;
  const auto unit = static_cast<uint64_t>(unit_elements(task.transform.item_size, constant));
  return ceil_div(static_cast<uint64_t>(task.layout.numel()), unit);
}

inline Record make_record(const FillTask& task, uint32_t tile_units) {
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
    plan_lines(task, r, tile_units);
  else
    plan_steps(task, r, tile_units);
  for (int k = 0; k < r.line_dims; ++k) r.inverses[k] = 1.0 / static_cast<double>(r.dims[k].size);
  plan_line(r);
  return r;
}

}  // namespace fastinit::cuda
