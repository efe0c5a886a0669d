// How thread blocks walk the tiles of a task. Everything here is inlined into the kernels of
// fill_single.cuh and many.cu.
#pragma once

#include "cuda/program.cuh"

namespace fastinit::cuda {

// `count` elements from logical index `logical` on, `stride` bytes apart in memory.
struct Work {
  char* to;
  uint64_t logical;
  int count;
  int64_t stride;
};

// Writes them at any phase against the blocks of the stream and any alignment. Two neighbouring
// blocks are at hand at a time.
template <class Program>
FASTINIT_DEVICE void write(const Program& program, const Work& work) {
  const uint32_t item = program.item, aligned = item < 4 ? 4 * item : 16;
  char* to = work.to;
  const bool vector = work.stride == item && (reinterpret_cast<uintptr_t>(to) & (aligned - 1)) == 0;
  const uint32_t phase = Program::constant ? 0 : static_cast<uint32_t>(work.logical) & 3;
  const int ahead = phase != 0;
  const int blocks = (static_cast<int>(phase) + work.count + 3) / 4;
  const int steps = (work.count + 3) / 4 + ahead;
  uint64_t block = work.logical / 4;
  typename Program::Block before{}, now{};
#pragma unroll 1
  for (int k = 0; k < steps; ++k, ++block) {
    before = now;
    if (k < blocks) now = program.block_of(block);
    if (k < ahead) continue;
    typename Program::Block out = now;
    if constexpr (!Program::constant)
      if (ahead) out = shifted(before, now, phase);
    const int left = work.count - 4 * (k - ahead);
    if (vector && left >= 4) {
      program.store(to, out);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (j < left) program.store_one(to + j * work.stride, out, j);
    }
    to += 4 * work.stride;
  }
}

// Memory and logical offset of line `line`, both in elements.
struct Place {
  int64_t memory, logical, last;  // last: the index of the last dimension
};
FASTINIT_DEVICE Place place_of(const Record& r, uint64_t line) {
  Place p{0, 0, 0};
#pragma unroll 1
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

// Where the group of four that holds element `at` begins.
FASTINIT_DEVICE int64_t group_start(const char* data, uint32_t item_shift, int64_t at) {
  const auto first = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(data) >> item_shift);
  return at - ((first + static_cast<uint32_t>(at)) & (item_shift == 3 ? 1 : 3));
}

FASTINIT_DEVICE Tile tile_of_lines(const Record& r, uint64_t number) {
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
  const int64_t start = static_cast<int64_t>(number * r.tile_units << r.unit_shift) - before;
  const int64_t tile_end = start + (static_cast<int64_t>(r.tile_units) << r.unit_shift);
  tile.begin = start < 0 ? 0 : start;
  tile.end = tile_end < r.length ? tile_end : r.length;
  if (tile.begin >= tile.end) return tile;
  const uint32_t first = start < 0 ? 1 : 0,
                 end = static_cast<uint32_t>(tile.end - start) >> r.unit_shift;
  whole = whole && r.has_units && first < end;
  // The block of the tile's first unit; modulo 2^62 where that lies before the stream.
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

FASTINIT_DEVICE Tile tile_of(const Record& r, uint64_t number) {
  if (r.path == Path::Lines) return tile_of_lines(r, number);
  Tile tile{};
  tile.first_step = number * r.tile_units;
  const uint64_t left = r.inner_size.value * r.lines - tile.first_step;
  tile.count = left < r.tile_units ? static_cast<uint32_t>(left) : r.tile_units;
  return tile;
}

FASTINIT_DEVICE Work work_of(const Record& r, const Tile& tile, uint32_t k) {
  const int64_t item = int64_t{1} << r.item_shift;
  if (r.path == Path::Lines) {
    const bool front = k < tile.front;
    const int64_t from = front ? tile.begin : tile.behind, to = front ? tile.middle : tile.end;
    const int64_t group = group_start(tile.data, r.item_shift, from) +
                          4 * static_cast<int64_t>(front ? k : k - tile.front);
    const int64_t a = group < from ? from : group, b = group + 4 < to ? group + 4 : to;
    return {tile.data + a * item, tile.logical + static_cast<uint64_t>(a), static_cast<int>(b - a),
            item};
  }
  const Divided d = divide(tile.first_step + k, r.inner_size);
  const int64_t x = static_cast<int64_t>(d.rest);
  const Place place = place_of(r, d.quotient);
  const int64_t left = r.length - (r.inner_moves ? x : place.last) * r.run;
  return {r.data + (place.memory + x * r.inner_memory) * item,
          r.first + static_cast<uint64_t>(place.logical + x * r.inner_logical),
          static_cast<int>(left < r.run ? left : r.run), r.run_stride * item};
}

}  // namespace fastinit::cuda
