// One launch for any number of tasks of any kinds and types: each thread block takes an even share
// of all tiles, finds the task of its first one by bisection, and goes through the tasks from
// there.
#include "cuda/fill.cuh"
#include "cuda/launch.h"
#include "cuda/various.cuh"

namespace fastinit::cuda {
namespace {

// The same record, but the compiler must not know that nothing has changed.
FASTINIT_DEVICE const Record& read_again(const Record& r) {
  const Record* again = &r;
#if FASTINIT_DEVICE_PASS
  asm volatile("" : "+l"(again));
#endif
  return *again;
}

// The units of tiles begin ... end - 1; whether something is left to be written.
template <class Program>
FASTINIT_DEVICE bool write_units(const Record& r, uint64_t begin, uint64_t end) {
  bool left = false;
#pragma unroll 1
  for (uint64_t number = begin; number < end; ++number) {
    const Tile tile = tile_of(r, number);
    left |= tile.count > 0;
    // Read only now: what a program holds would lie in registers while a tile is worked out.
    if (tile.units.first < tile.units.end) Program(read_again(r)).write_units(tile.units);
  }
  return left;
}

// What is left.
template <class Program>
FASTINIT_DEVICE void write_rest(const Record& r, uint64_t begin, uint64_t end) {
#pragma unroll 1
  for (uint64_t number = begin; number < end; ++number) {
    const uint32_t count = tile_of(r, number).count;
#pragma unroll 1
    for (uint32_t k = threadIdx.x; k < count; k += kThreads) {
      // Worked out again: a tile would stay in registers while blocks are made.
      const Record& again = read_again(r);
      write(Program(again), work_of(again, tile_of(again, number), k));
    }
  }
}

// The common types have inner loops of their own.
template <Kind kind, Clamp clamp>
FASTINIT_DEVICE bool write_common(const Record& r, uint64_t begin, uint64_t end) {
  switch (r.transform.dtype) {
    case DType::F32:
      return write_units<Random<From::Table, kind, DType::F32, clamp>>(r, begin, end);
    case DType::BF16:
      return write_units<Random<From::Table, kind, DType::BF16, clamp>>(r, begin, end);
    case DType::F16:
      return write_units<Random<From::Table, kind, DType::F16, clamp>>(r, begin, end);
    default:
      return true;
  }
}

FASTINIT_DEVICE void write_task(const Record& r, uint64_t begin, uint64_t end) {
  const Kind kind = r.transform.kind;
  bool left = true;
  if (r.path == Path::Lines && r.has_units) {
    if (kind == Kind::Constant) left = write_units<Repeat>(r, begin, end);
    if (kind == Kind::Uniform) left = write_common<Kind::Uniform, Clamp::Ask>(r, begin, end);
    if (kind == Kind::Normal) left = write_common<Kind::Normal, Clamp::Ask>(r, begin, end);
    if (kind == Kind::Central) left = write_common<Kind::Central, Clamp::Yes>(r, begin, end);
  }
  if (!left) return;
  if (kind == Kind::Constant)
    write_rest<Repeat>(r, begin, end);
  else if (r.transform.dtype == DType::F64)
    write_rest<Various<true>>(r, begin, end);
  else
    write_rest<Various<false>>(r, begin, end);
}

__global__ void __launch_bounds__(kThreads, 2) fill_many(const __grid_constant__ Tasks tasks) {
  const bool few = tasks.records == nullptr;
  const uint64_t* const first_tile = few ? tasks.few_first_tile : tasks.first_tile;
  const Record* const records = few ? tasks.few : tasks.records;
  const bool one_more = blockIdx.x < tasks.more;
  uint64_t tile = blockIdx.x * tasks.share + (one_more ? blockIdx.x : tasks.more);
  const uint64_t end = tile + tasks.share + (one_more ? 1 : 0);
  uint32_t low = 0, high = tasks.count;  // first_tile[low] <= tile < first_tile[high]
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (first_tile[middle] <= tile)
      low = middle;
    else
      high = middle;
  }
  for (; tile < end; ++low) {
    const uint64_t next = first_tile[low + 1], stop = next < end ? next : end;
    write_task(records[low], tile - first_tile[low], stop - first_tile[low]);
    tile = stop;
  }
}

}  // namespace

cudaError_t launch_many(Tasks& tasks, uint64_t tiles, unsigned grid, cudaStream_t stream) {
  tasks.share = tiles / grid;
  tasks.more = static_cast<uint32_t>(tiles % grid);
  FASTINIT_LAUNCH(fill_many, grid, kThreads, 0, stream, tasks);
  return cudaGetLastError();
}

}  // namespace fastinit::cuda
