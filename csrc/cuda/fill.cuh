// How thread blocks walk the tiles of a task. Everything here is inlined into the kernels of
// fill_*.cu and many.cu, with a program of program.cuh.
#pragma once

#include "cuda/program.cuh"

namespace fastinit::cuda {

// One element, from the words that hold it on; bytewise where memory is not aligned to it.
template <int item>
FASTINIT_DEVICE void store_element(char* to, const Four<item>& v, int k) {
  if constexpr (item == 1) {
    *to = static_cast<char>(v.w[0] >> (8 * k));
  } else if constexpr (item == 2) {
    const uint32_t bits = v.w[k / 2] >> (16 * (k % 2));
    if (reinterpret_cast<uintptr_t>(to) % 2 == 0) {
      *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(bits);
    } else {
      to[0] = static_cast<char>(bits);
      to[1] = static_cast<char>(bits >> 8);
    }
  } else {
#pragma unroll
    for (int j = 0; j < item / 4; ++j) {
      const uint32_t bits = v.w[k * (item / 4) + j];
      if (reinterpret_cast<uintptr_t>(to) % 4 == 0) {
        *reinterpret_cast<uint32_t*>(to + 4 * j) = bits;
      } else {
#pragma unroll
        for (int b = 0; b < 4; ++b) to[4 * j + b] = static_cast<char>(bits >> (8 * b));
      }
    }
  }
}

// Four elements, contiguous and aligned to their size or 16 bytes.
template <int item>
FASTINIT_DEVICE void store_four(char* to, const Four<item>& v) {
  if constexpr (item == 1) *reinterpret_cast<uint32_t*>(to) = v.w[0];
  if constexpr (item == 2) *reinterpret_cast<uint2*>(to) = make_uint2(v.w[0], v.w[1]);
  if constexpr (item >= 4) {
#pragma unroll
    for (int k = 0; k < item; k += 4)
      *reinterpret_cast<uint4*>(to + 4 * k) =
          make_uint4(v.w[k], v.w[k + 1], v.w[k + 2], v.w[k + 3]);
  }
}

// `count` elements from logical index `logical` on, `stride` bytes apart in memory: any phase
// against the blocks of the stream, any alignment. Two neighbouring blocks are at hand at a time.
template <class Program>
FASTINIT_DEVICE void write_run(const Program& program, char* to, uint64_t logical, int count,
                               int64_t stride) {
  constexpr int item = Program::item;
  const bool vector =
      stride == item && reinterpret_cast<uintptr_t>(to) % (4 * item < 16 ? 4 * item : 16) == 0;
  const uint32_t phase = Program::constant ? 0 : static_cast<uint32_t>(logical) & 3;
  const int ahead = phase != 0;
  const int blocks = static_cast<int>(phase + count + 3) / 4, steps = (count + 3) / 4 + ahead;
  uint64_t block = logical / 4;
  Four<item> before{}, now{};
#pragma unroll 1
  for (int k = 0; k < steps; ++k, ++block) {
    before = now;
    if (k < blocks) {
      const auto high = program.high(static_cast<uint32_t>(block >> 32));
      now = program.make(high, static_cast<uint32_t>(block));
    }
    if (k < ahead) continue;
    const Four<item> out = ahead ? shifted(before, now, phase) : now;
    const int left = count - 4 * (k - ahead);
    if (vector && left >= 4) {
      store_four(to, out);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (j < left) store_element(to + j * stride, out, j);
    }
    to += 4 * stride;
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
      const uint64_t size = static_cast<uint64_t>(r.dims[k].size);
      const bool narrow = (line | size) >> 32 == 0;  // a 64-bit division takes three times as long
      const uint64_t quotient =
          narrow ? static_cast<uint32_t>(line) / static_cast<uint32_t>(size) : line / size;
      at = static_cast<int64_t>(line - quotient * size);
      line = quotient;
    }
    if (k == r.line_dims - 1) p.last = at;
    p.memory += at * r.dims[k].memory;
    p.logical += at * r.dims[k].logical;
  }
  return p;
}

// Whole units first ... end - 1 of a line whose unit 0 starts at `origin`, in block `block`. All
// blocks have the same high counter word.
template <class Program>
FASTINIT_DEVICE void write_units(const Program& program, char* origin, uint64_t block,
                                 uint32_t first, uint32_t end) {
  constexpr int item = Program::item, unit = Program::unit;
  if constexpr (Program::constant) {
    for (uint32_t u = first + threadIdx.x; u < end; u += kThreads)
      *reinterpret_cast<uint4*>(origin + static_cast<uint64_t>(u) * 16) = program.pattern;
  } else {
    constexpr int blocks = unit / 4;
    const auto high = program.high(static_cast<uint32_t>((block + uint64_t{first} * blocks) >> 32));
    const uint32_t low = static_cast<uint32_t>(block);
#pragma unroll 2
    for (uint32_t u = first + threadIdx.x; u < end; u += kThreads) {
      char* const to = origin + static_cast<uint64_t>(u) * (unit * item);
      if constexpr (item >= 4) {
        store_four(to, program.make(high, low + u));
      } else {
        uint32_t w[4];
#pragma unroll
        for (int k = 0; k < blocks; ++k) {
          const Four<item> four = program.make(high, low + u * blocks + k);
#pragma unroll
          for (int j = 0; j < item; ++j) w[k * item + j] = four.w[j];
        }
        *reinterpret_cast<uint4*>(to) = make_uint4(w[0], w[1], w[2], w[3]);
      }
    }
  }
}

template <class Program>
FASTINIT_DEVICE void write_line_tile(const Program& program, const Record& r, uint64_t tile) {
  constexpr int item = Program::item, unit = Program::unit;
  uint64_t line = 0;
  Place place{0, 0, 0};
  if (r.lines > 1) {
    line = tile / r.tiles_per_line;
    tile -= line * r.tiles_per_line;
    place = place_of(r, line);
  }
  char* const data = r.data + place.memory * item;
  const uint64_t logical = r.first + static_cast<uint64_t>(place.logical);
  const uint64_t address = reinterpret_cast<uint64_t>(data);

  // Elements of the first unit that lie before the line, so that units start blocks and are
  // aligned.
  uint32_t before = static_cast<uint32_t>(address / item) % unit;
  bool whole = address % item == 0;
  if constexpr (!Program::constant) {
    if constexpr (item == 8) before = static_cast<uint32_t>(logical) % 4;
    whole = whole && (static_cast<uint32_t>(logical) - before) % 4 == 0 &&
            (address - before * item) % 16 == 0;
  }
  // Elements begin ... end - 1 of the line are this tile's, its unit 0 being `tile` tiles on.
  const int64_t start = static_cast<int64_t>(tile * r.tile_units * unit) - before;
  const int64_t begin = start < 0 ? 0 : start;
  const int64_t tile_end = start + static_cast<int64_t>(r.tile_units) * unit;
  const int64_t end = tile_end < r.length ? tile_end : r.length;
  if (begin >= end) return;
  const uint32_t first_unit = start < 0 ? 1 : 0;
  const uint32_t end_unit = static_cast<uint32_t>((end - start) / unit);
  // A multiple of four; modulo 2^64 where the line starts the stream.
  const uint64_t block = (logical + static_cast<uint64_t>(start) + unit) / 4 - unit / 4;
  if constexpr (!Program::constant)
    whole = whole && first_unit < end_unit &&
            (block + uint64_t{first_unit} * (unit / 4)) >> 32 ==
                (block + uint64_t{end_unit} * (unit / 4) - 1) >> 32;
  else
    whole = whole && first_unit < end_unit;
  int64_t middle_begin = end, middle_end = end;
  if (whole) {
    middle_begin = start + static_cast<int64_t>(first_unit) * unit;
    middle_end = start + static_cast<int64_t>(end_unit) * unit;
    write_units(program, data + start * item, block, first_unit, end_unit);
  }
  // What is left in front and behind, in groups of four that are aligned in memory.
#pragma unroll 1
  for (int part = 0; part < 2; ++part) {
    const int64_t from = part == 0 ? begin : middle_end;
    const int64_t to = part == 0 ? middle_begin : end;
    const int64_t group0 =
        from - static_cast<int64_t>((address / item + from) % (item == 8 ? 2 : 4));
#pragma unroll 1
    for (int64_t at = group0 + 4 * static_cast<int64_t>(threadIdx.x); at < to; at += 4 * kThreads) {
      const int64_t a = at < from ? from : at, b = at + 4 < to ? at + 4 : to;
      write_run(program, data + a * item, logical + static_cast<uint64_t>(a),
                static_cast<int>(b - a), item);
    }
  }
}

template <class Program>
FASTINIT_DEVICE void write_step_tile(const Program& program, const Record& r, uint64_t tile) {
  constexpr int item = Program::item;
  const uint64_t inner = static_cast<uint64_t>(r.inner.size);
  const uint64_t units = inner * r.lines;
  const uint64_t tile_begin = tile * r.tile_units;
  const uint64_t tile_end = tile_begin + r.tile_units < units ? tile_begin + r.tile_units : units;
#pragma unroll 1
  for (uint64_t u = tile_begin + threadIdx.x; u < tile_end; u += kThreads) {
    const bool narrow = (u | inner) >> 32 == 0;
    const uint64_t line =
        narrow ? static_cast<uint32_t>(u) / static_cast<uint32_t>(inner) : u / inner;
    const int64_t x = static_cast<int64_t>(u - line * inner);
    const Place place = place_of(r, line);
    const int64_t position = (r.inner_moves ? x : place.last) * r.run;
    const int64_t left = r.length - position;
    write_run(program, r.data + (place.memory + x * r.inner.memory) * item,
              r.first + static_cast<uint64_t>(place.logical + x * r.inner.logical),
              static_cast<int>(left < r.run ? left : r.run), r.run_stride * item);
  }
}

// Tiles begin, begin + step, ... of a task.
template <class Program>
FASTINIT_DEVICE void write_tiles(const Program& program, const Record& r, uint64_t begin,
                                 uint64_t end, uint64_t step) {
  if (r.path == Path::Lines) {
#pragma unroll 1
    for (uint64_t tile = begin; tile < end; tile += step) write_line_tile(program, r, tile);
  } else {
#pragma unroll 1
    for (uint64_t tile = begin; tile < end; tile += step) write_step_tile(program, r, tile);
  }
}

}  // namespace fastinit::cuda
