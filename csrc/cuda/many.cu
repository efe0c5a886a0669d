// One launch for any number of tasks of any kinds and types: each thread block takes an even share
// of all tiles, finds the task of its first one by bisection, and goes through the tasks from
// there.
#include "cuda/fill.cuh"
#include "cuda/launch.h"
#include "cuda/various.cuh"

namespace fastinit::cuda {
namespace {

// The units of tiles begin ... end - 1; whether something is left to be written.
template <class Program>
FASTINIT_DEVICE bool write_units(const Record& r, uint64_t begin, uint64_t end) {
  const Program program(r);
  bool left = false;
#pragma unroll 1
  for (uint64_t number = begin; number < end; ++number) {
    const Tile tile = tile_of_lines(r, number);
    if (tile.units.first < tile.units.end) program.write_units(tile.units);
    left |= tile.count > 0;
  }
  return left;
}

// What is left.
template <class Program>
FASTINIT_DEVICE void write_rest(const Record& r, uint64_t begin, uint64_t end) {
  const Program program(r);
#pragma unroll 1
  for (uint64_t number = begin; number < end; ++number) {
    const Tile tile = tile_of(r, number);
#pragma unroll 1
    for (uint32_t k = threadIdx.x; k < tile.count; k += kThreads)
      write(program, work_of(r, tile, k));
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

__global__ void __launch_bounds__(kThreads, 3) fill_many(const __grid_constant__ Tasks tasks) {
  const bool few = tasks.records == nullptr;
  const uint64_t* const first_tile = few ? tasks.few_first_tile : tasks.first_tile;
  const Record* const records = few ? tasks.few : tasks.records;
  const bool one_more = blockIdx.x < tasks.more;
  uint64_t tile = blockIdx.x * tasks.share + (one_more ? blockIdx.x : tasks.more);
  const uint64_t end = tile + tasks.share + (one_more ? 1 : 0);
  int64_t low = 0, high = tasks.count;  // first_tile[low] <= tile < first_tile[high]
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
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
