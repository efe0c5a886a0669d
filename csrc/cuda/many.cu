// One launch for any number of tasks of any kinds and types: each thread block takes an even share
// of all tiles, finds the task of its first one by bisection, and goes through the tasks from
// there.
#include "cuda/fill_single.cuh"

namespace fastinit::cuda {
namespace {

template <Kind kind, DType dtype, Clamp clamp>
FASTINIT_DEVICE void run_random(const Record& r, uint64_t begin, uint64_t end) {
  // Copies, or every store through a char pointer might change them.
  const auto args = args_of<dtype>(r.transform);
  const PhiloxKeys keys = philox_keys(r.key, r.purpose);
  PhiloxKeys low = keys;
  if constexpr (dtype == DType::F64) low = philox_keys(r.key, Purpose::Low);
  const Random<kind, dtype, clamp> program{args, keys, low, r.transform.clamped};
  write_tiles(program, r, begin, end, 1);
}

template <Kind kind, Clamp clamp>
FASTINIT_DEVICE void run_type(const Record& r, uint64_t begin, uint64_t end) {
  switch (r.transform.dtype) {
    case DType::F32:
      return run_random<kind, DType::F32, clamp>(r, begin, end);
    case DType::F64:
      return run_random<kind, DType::F64, clamp>(r, begin, end);
    case DType::F16:
      return run_random<kind, DType::F16, clamp>(r, begin, end);
    case DType::BF16:
      return run_random<kind, DType::BF16, clamp>(r, begin, end);
    case DType::E4M3:
      return run_random<kind, DType::E4M3, clamp>(r, begin, end);
    case DType::E5M2:
      return run_random<kind, DType::E5M2, clamp>(r, begin, end);
    default:
      return;
  }
}

FASTINIT_DEVICE void run_constant(const Record& r, uint64_t begin, uint64_t end) {
  switch (r.transform.item_size) {
    case 1:
      return write_tiles(Repeat<1>(r.transform), r, begin, end, 1);
    case 2:
      return write_tiles(Repeat<2>(r.transform), r, begin, end, 1);
    case 4:
      return write_tiles(Repeat<4>(r.transform), r, begin, end, 1);
    case 8:
      return write_tiles(Repeat<8>(r.transform), r, begin, end, 1);
    default:
      return write_tiles(Repeat<16>(r.transform), r, begin, end, 1);
  }
}

FASTINIT_DEVICE void run_task(const Record& r, uint64_t begin, uint64_t end) {
  switch (r.transform.kind) {
    case Kind::Constant:
      return run_constant(r, begin, end);
    case Kind::Words:
      return run_random<Kind::Words, DType::Word, Clamp::No>(r, begin, end);
    case Kind::Uniform:
      return run_type<Kind::Uniform, Clamp::Ask>(r, begin, end);
    case Kind::Normal:
      return run_type<Kind::Normal, Clamp::Ask>(r, begin, end);
    case Kind::Narrow:
      return run_type<Kind::Narrow, Clamp::Yes>(r, begin, end);
    case Kind::Central:
      return run_type<Kind::Central, Clamp::Yes>(r, begin, end);
    case Kind::Tail:
      return run_type<Kind::Tail, Clamp::Yes>(r, begin, end);
    case Kind::Far:
      return run_type<Kind::Far, Clamp::Yes>(r, begin, end);
  }
}

__global__ void __launch_bounds__(kThreads) fill_many(const __grid_constant__ Tasks tasks) {
  const bool few = tasks.records == nullptr;
  const uint64_t* const first_tile = few ? tasks.few_first_tile : tasks.first_tile;
  const Record* const records = few ? tasks.few : tasks.records;
  const uint64_t total = first_tile[tasks.count];
  const uint64_t share = total / gridDim.x, rest = total % gridDim.x;
  uint64_t tile = blockIdx.x * share + (blockIdx.x < rest ? blockIdx.x : rest);
  const uint64_t end = tile + share + (blockIdx.x < rest ? 1 : 0);
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
    run_task(records[low], tile - first_tile[low], stop - first_tile[low]);
    tile = stop;
  }
}

}  // namespace

cudaError_t launch_many(const Tasks& tasks, unsigned grid, cudaStream_t stream) {
  FASTINIT_LAUNCH(fill_many, grid, kThreads, 0, stream, tasks);
  return cudaGetLastError();
}

}  // namespace fastinit::cuda
