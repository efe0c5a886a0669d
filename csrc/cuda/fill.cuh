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

FASTINIT_DEVICE Tile tile_of_line(const Record& r, uint64_t number) {
  Tile tile = r.line;
  const uint32_t from = static_cast<uint32_t>(number) * r.tile_units, to = from + r.tile_units;
  tile.units.first = from > tile.units.first ? from : tile.units.first;
  tile.units.end = to < tile.units.end ? to : tile.units.end;
  tile.count = number == 0 ? tile.count : 0;
  return tile;
}

FASTINIT_DEVICE Tile tile_of(const Record& r, uint64_t number) {
  if (r.line.units.end > 0) return tile_of_line(r, number);
  if (r.path == Path::Lines) return tile_of_lines(r, number, r.tile_units);
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
