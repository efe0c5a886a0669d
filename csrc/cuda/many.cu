// One launch for any number of tasks of any kinds and types: each thread block takes an even share
// of all tiles, finds the task of its first one by bisection, and goes through the tasks from
// there.
#include "cuda/fill_single.cuh"

namespace fastinit::cuda {
namespace {

// The constants that kind reads: a reference would be read again behind every store, and a copy of
// them all would not fit registers.
template <Kind kind, class Real>
FASTINIT_DEVICE TransformArgs<Real> copied(const TransformArgs<Real>& from) {
  TransformArgs<Real> args;
  args.lo = from.lo;
  args.hi = from.hi;
  if constexpr (kind == Kind::Uniform) args.uniform = {from.uniform.scale, from.uniform.shift};
  if constexpr (kind == Kind::Normal) args.normal = {from.normal.mean, from.normal.std};
  return args;
}

template <Kind kind, DType dtype>
FASTINIT_DEVICE void run_random(const InTable& source, uint64_t begin, uint64_t end) {
  const Record& r = source();
  const auto args = copied<kind>(args_of<dtype>(r.transform));
  const PhiloxKeys keys = philox_keys(r.key, r.purpose);
  PhiloxKeys low = keys;
  if constexpr (dtype == DType::F64) low = philox_keys(r.key, Purpose::Low);
  const Random<kind, dtype, kind == Kind::Words ? Clamp::No : Clamp::Ask> program(
      args, keys, low, r.transform.clamped);
  write_tiles(program, source, begin, end, 1);
}

// Whether a kind has code of its own for this type: the common ones.
template <Kind kind>
FASTINIT_DEVICE bool run_common(const InTable& source, uint64_t begin, uint64_t end) {
  switch (source().transform.dtype) {
    case DType::F32:
      run_random<kind, DType::F32>(source, begin, end);
      return true;
    case DType::BF16:
      run_random<kind, DType::BF16>(source, begin, end);
      return true;
    case DType::F16:
      run_random<kind, DType::F16>(source, begin, end);
      return true;
    default:
      return false;
  }
}

FASTINIT_DEVICE void run_constant(const InTable& source, uint64_t begin, uint64_t end) {
  switch (source().transform.item_size) {
    case 1:
      return write_tiles(Repeat<1>(source().transform), source, begin, end, 1);
    case 2:
      return write_tiles(Repeat<2>(source().transform), source, begin, end, 1);
    case 4:
      return write_tiles(Repeat<4>(source().transform), source, begin, end, 1);
    case 8:
      return write_tiles(Repeat<8>(source().transform), source, begin, end, 1);
    default:
      return write_tiles(Repeat<16>(source().transform), source, begin, end, 1);
  }
}

FASTINIT_DEVICE void run_task(const InTable& source, uint64_t begin, uint64_t end) {
  const Kind kind = source().transform.kind;
  if (kind == Kind::Constant) return run_constant(source, begin, end);
  if (kind == Kind::Words) return run_random<Kind::Words, DType::Word>(source, begin, end);
  if (kind == Kind::Uniform && run_common<Kind::Uniform>(source, begin, end)) return;
  if (kind == Kind::Normal && run_common<Kind::Normal>(source, begin, end)) return;
  if (source().transform.dtype == DType::F64)
    write_tiles(Various<true>{source()}, source, begin, end, 1);
  else
    write_tiles(Various<false>{source()}, source, begin, end, 1);
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
    run_task(InTable{records + low}, tile - first_tile[low], stop - first_tile[low]);
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
