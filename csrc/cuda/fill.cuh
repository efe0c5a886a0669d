// How thread blocks walk the tiles of a task. Everything here is inlined into the kernels of
// fill_*.cu and many.cu, with a program of program.cuh.
#pragma once

#include "cuda/program.cuh"

namespace fastinit::cuda {

// `count` elements from logical index `logical` on, `stride` bytes apart in memory: any phase
// against the blocks of the stream, any alignment. Two neighbouring blocks are at hand at a time.
template <class Program>
FASTINIT_DEVICE void write_run(const Program& program, char* to, uint64_t logical, int count,
                               int64_t stride) {
  const uint32_t item = program.item();
  const uint32_t aligned = item < 4 ? 4 * item : 16;
  const bool vector = stride == item && (reinterpret_cast<uintptr_t>(to) & (aligned - 1)) == 0;
  const uint32_t phase = Program::constant ? 0 : static_cast<uint32_t>(logical) & 3;
  const int ahead = phase != 0;
  const int blocks = static_cast<int>(phase + count + 3) / 4, steps = (count + 3) / 4 + ahead;
  uint64_t block = logical / 4;
  typename Program::Block before{}, now{};
#pragma unroll 1
  for (int k = 0; k < steps; ++k, ++block) {
    before = now;
    if (k < blocks) {
      const auto high = program.high(static_cast<uint32_t>(block >> 32));
      now = program.make(high, static_cast<uint32_t>(block));
    }
    if (k < ahead) continue;
    const typename Program::Block out = ahead ? shifted(before, now, phase) : now;
    const int left = count - 4 * (k - ahead);
    if (vector && left >= 4) {
      program.store(to, out);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (j < left) program.store_one(to + j * stride, out, j);
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

// Whole units first ... end - 1 of a line whose unit 0 starts at `origin`, in block `block`. All
// blocks have the same high counter word.
template <class Program>
FASTINIT_DEVICE void write_units(const Program& program, char* origin, uint64_t block,
                                 uint32_t first, uint32_t end) {
  constexpr int unit = Program::unit;
  if constexpr (Program::constant) {
    for (uint32_t u = first + threadIdx.x; u < end; u += kThreads)
      *reinterpret_cast<uint4*>(origin + static_cast<uint64_t>(u) * 16) = program.pattern;
  } else {
    constexpr int blocks = unit / 4;
    const auto high = program.high(static_cast<uint32_t>((block + uint64_t{first} * blocks) >> 32));
    const uint32_t low = static_cast<uint32_t>(block);
#pragma unroll 2
    for (uint32_t u = first + threadIdx.x; u < end; u += kThreads) {
      char* const to = origin + static_cast<uint64_t>(u) * (unit * program.item());
      if constexpr (blocks == 1) {
        program.store(to, program.make(high, low + u));
      } else {
        constexpr int item = Program::item();
        uint32_t w[4];
#pragma unroll
        for (int k = 0; k < blocks; ++k) {
          const auto four = program.make(high, low + u * blocks + k);
#pragma unroll
          for (int j = 0; j < item; ++j) w[k * item + j] = four.w[j];
        }
        *reinterpret_cast<uint4*>(to) = make_uint4(w[0], w[1], w[2], w[3]);
      }
    }
  }
}

// What a tile leaves to write_run: runs of elements `stride` bytes apart. Of a line, its `count`
// runs are groups of four elements, aligned in memory: those before the middle that write_units has
// written, `front` of them, and those behind it.
struct Rest {
  char* data;
  uint64_t logical;
  uint32_t count, front;
  int64_t begin, middle, behind, end;  // elements of the line
};

// Where the group of four that holds element `at` begins. Items are powers of two.
FASTINIT_DEVICE int64_t group_start(const char* data, uint32_t item, int64_t at) {
  const auto first = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(data) / item);
  return at - ((first + static_cast<uint32_t>(at)) & (item == 8 ? 1 : 3));
}

template <class Program>
FASTINIT_DEVICE Rest write_middle(const Program& program, const Record& r, uint64_t tile) {
  constexpr int unit = Program::unit;
  const uint32_t item = program.item();
  Place place{0, 0, 0};
  if (r.lines > 1) {
    const Divided d = divide(tile, r.tiles_per_line);
    tile = d.rest;
    place = place_of(r, d.quotient);
  }
  Rest rest{};
  rest.data = r.data + place.memory * item;
  rest.logical = r.first + static_cast<uint64_t>(place.logical);
  const uint64_t address = reinterpret_cast<uintptr_t>(rest.data);

  // Elements of the first unit that lie before the line, so that units are aligned and start
  // blocks.
  uint32_t before = static_cast<uint32_t>(address / item) % unit;
  bool whole = (address & (item - 1)) == 0;
  if constexpr (!Program::constant) {
    if (item == 8) before = static_cast<uint32_t>(rest.logical) % 4;
    whole = whole && (static_cast<uint32_t>(rest.logical) - before) % 4 == 0 &&
            (item != 8 || (address - before * item) % 16 == 0);
  }
  // The tile starts here, counted in elements of the line, perhaps before it.
  const int64_t start = static_cast<int64_t>(tile * r.tile_units * unit) - before;
  const int64_t tile_end = start + static_cast<int64_t>(r.tile_units) * unit;
  rest.begin = start < 0 ? 0 : start;
  rest.end = tile_end < r.length ? tile_end : r.length;
  rest.count = rest.front = 0;
  if (rest.begin >= rest.end) return rest;
  const uint32_t first = start < 0 ? 1 : 0;
  const uint32_t end = static_cast<uint32_t>(rest.end - start) / unit;
  whole = whole && first < end;
  // The block of the tile's first unit; modulo 2^62 where that lies before the stream.
  const uint64_t block = (rest.logical + static_cast<uint64_t>(start) + unit) / 4 - unit / 4;
  if constexpr (!Program::constant) {
    constexpr uint32_t blocks = unit / 4;
    whole = whole && (block + first * blocks) >> 32 == (block + end * blocks - 1) >> 32;
  }
  rest.middle = rest.behind = rest.end;
  if (whole) {
    rest.middle = start + static_cast<int64_t>(first) * unit;
    rest.behind = start + static_cast<int64_t>(end) * unit;
    write_units(program, rest.data + start * item, block, first, end);
  }
  if (rest.middle > rest.begin)
    rest.front = static_cast<uint32_t>(
        (rest.middle - group_start(rest.data, item, rest.begin) + 3) / 4);
  rest.count = rest.front;
  if (rest.end > rest.behind)
    rest.count += static_cast<uint32_t>(
        (rest.end - group_start(rest.data, item, rest.behind) + 3) / 4);
  return rest;
}

// Where a task is read from: a kernel parameter lies in constant memory and costs nothing to read;
// one in a table is read again where it is needed, or the compiler keeps all of it in registers.
struct InParameter {
  const Record& record;
  FASTINIT_DEVICE const Record& operator()() const { return record; }
};
struct InTable {
  const Record* record;
  FASTINIT_DEVICE const Record& operator()() const {
    const Record* again = record;
#if FASTINIT_DEVICE_PASS
    asm volatile("" : "+l"(again));
#endif
    return *again;
  }
};

// What one thread gives write_run.
struct Work {
  char* to;
  uint64_t logical;
  int count;
  int64_t stride;  // bytes
};

FASTINIT_DEVICE Work work_of_line(const Rest& rest, uint32_t item, uint32_t k) {
  const bool front = k < rest.front;
  const int64_t from = front ? rest.begin : rest.behind;
  const int64_t stop = front ? rest.middle : rest.end;
  const int64_t group = group_start(rest.data, item, from) + 4 * int64_t{front ? k : k - rest.front};
  const int64_t a = group < from ? from : group, b = group + 4 < stop ? group + 4 : stop;
  return {rest.data + a * item, rest.logical + static_cast<uint64_t>(a), static_cast<int>(b - a),
          item};
}

FASTINIT_DEVICE Work work_of_step(const Record& r, uint32_t item, uint64_t u) {
  const Divided d = divide(u, r.inner_size);
  const int64_t x = static_cast<int64_t>(d.rest);
  const Place place = place_of(r, d.quotient);
  const int64_t left = r.length - (r.inner_moves ? x : place.last) * r.run;
  return {r.data + (place.memory + x * r.inner_memory) * item,
          r.first + static_cast<uint64_t>(place.logical + x * r.inner_logical),
          static_cast<int>(left < r.run ? left : r.run), r.run_stride * item};
}

// Tiles begin, begin + step, ... of a task.
template <class Program, class Source>
FASTINIT_DEVICE void write_tiles(const Program& program, const Source& source, uint64_t begin,
                                 uint64_t end, uint64_t step) {
#pragma unroll 1
  for (uint64_t tile = begin; tile < end; tile += step) {
    const Record& r = source();
    Rest rest{};  // a field left open would keep its register through all tasks
    const bool lines = r.path == Path::Lines;
    const uint64_t first_unit = tile * r.tile_units;
    if (lines) {
      rest = write_middle(program, r, tile);
    } else {
      const uint64_t left = r.inner_size.value * r.lines - first_unit;
      rest.count = left < r.tile_units ? static_cast<uint32_t>(left) : r.tile_units;
    }
#pragma unroll 1
    for (uint32_t k = threadIdx.x; k < rest.count; k += kThreads) {
      const Work work = lines ? work_of_line(rest, program.item(), k)
                              : work_of_step(source(), program.item(), first_unit + k);
      write_run(program, work.to, work.logical, work.count, work.stride);
    }
  }
}

}  // namespace fastinit::cuda
