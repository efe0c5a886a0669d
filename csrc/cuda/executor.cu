#include "cuda/executor.h"

#include "cuda/launch.h"

namespace fastinit::cuda {
namespace {

// Thread blocks per multiprocessor in a launch: several times what it holds at once, so that blocks
// with more work than others even out.
constexpr uint64_t kBlocksPerProcessor = 32;

uint64_t align_up(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

size_t tasks_with_elements(const FillTask* tasks, size_t count) {
  size_t n = 0;
  for (size_t k = 0; k < count; ++k) n += tasks[k].layout.numel() > 0;
  return n;
}

SingleKernel kernel_of(const Transform& t) {
  if (t.kind != Kind::Constant && may_meet_zero(t)) return nullptr;
  switch (t.kind) {
    case Kind::Constant:
    case Kind::Words:
      return constant_kernel(t);
    case Kind::Uniform:
      return uniform_kernel(t);
    case Kind::Normal:
      return normal_kernel(t);
    case Kind::Central:
      return central_kernel(t);
    default:
      return nullptr;
  }
}

unsigned grid_for(uint64_t tiles, uint64_t processors) {
  const uint64_t most = processors * kBlocksPerProcessor;
  return static_cast<unsigned>(tiles < most ? tiles : most);
}

cudaError_t launch_single(SingleKernel kernel, const Record& record, uint64_t processors,
                          cudaStream_t stream) {
  Single single;
  single.record = record;
  single.record.has_units = true;
  plan_line(single.record);
  single.value = philox_keys(record.key, record.purpose);
  single.low = philox_keys(record.key, Purpose::Low);
  FASTINIT_LAUNCH(kernel, grid_for(record.tiles, processors), kThreads, 0, stream, single);
  return cudaGetLastError();
}

struct Launcher {
  const FillTask* tasks;
  size_t count;
  uint64_t processors;
  cudaStream_t stream;
  uint32_t tile_units;
  size_t next = 0;

  // The next task with elements, if there is one.
  bool take(Record& record) {
    while (next < count) {
      record = make_record(tasks[next++], tile_units);
      if (record.tiles > 0) return true;
    }
    return false;
  }

  cudaError_t many(Tasks& list, uint64_t tiles) const {
    return launch_many(list, tiles, grid_for(tiles, processors), stream);
  }

  cudaError_t by_value() {
    Tasks few{};
    bool more = true;
    while (more) {
      few.count = 0;
      while (few.count < kFew && (more = take(few.few[few.count]))) {
        few.few_first_tile[few.count + 1] =
            few.few_first_tile[few.count] + few.few[few.count].tiles;
        ++few.count;
      }
      const SingleKernel kernel = few.count == 1 ? kernel_of(few.few[0].transform) : nullptr;
      cudaError_t error = cudaSuccess;
      if (kernel != nullptr)
        error = launch_single(kernel, few.few[0], processors, stream);
      else if (few.count > 0)
        error = many(few, few.few_first_tile[few.count]);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }

  cudaError_t by_table(size_t size, const TableMemory& memory) {
    char* const host = static_cast<char*>(memory.host);
    const char* const device = static_cast<const char*>(memory.device);
    const uint64_t behind = align_up((size + 1) * sizeof(uint64_t));
    uint64_t* const first_tile = reinterpret_cast<uint64_t*>(host);
    Record* const records = reinterpret_cast<Record*>(host + behind);
    first_tile[0] = 0;
    for (size_t k = 0; k < size; ++k) {
      take(records[k]);
      first_tile[k + 1] = first_tile[k] + records[k].tiles;
    }
    const cudaError_t error = cudaMemcpyAsync(
        memory.device, memory.host, behind + size * sizeof(Record), cudaMemcpyHostToDevice, stream);
    if (error != cudaSuccess) return error;
    Tasks all{};
    all.first_tile = reinterpret_cast<const uint64_t*>(device);
    all.records = reinterpret_cast<const Record*>(device + behind);
    all.count = static_cast<uint32_t>(size);
    return many(all, first_tile[size]);
  }
};

}  // namespace

size_t table_bytes(const FillTask* tasks, size_t count) {
  const size_t size = tasks_with_elements(tasks, count);
  return size <= 1 ? 0 : align_up((size + 1) * sizeof(uint64_t)) + size * sizeof(Record);
}

int execute(const FillTask* tasks, size_t count, CUstream_st* stream, const TableMemory& table) {
  const size_t size = tasks_with_elements(tasks, count);
  if (size == 0) return cudaSuccess;
  int device = 0, processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const auto at_once = static_cast<uint64_t>(processors);
  uint64_t units = 0;
  for (size_t k = 0; k < count; ++k) units += units_of(tasks[k]);
  const uint32_t most = size == 1 ? kLargeTileUnits : kTileUnits;
  Launcher launcher{tasks, count, at_once, stream, tile_units_for(units, at_once, most)};
  if (table.bytes == 0 || size == 1) return launcher.by_value();
  if (table.bytes < table_bytes(tasks, count)) return cudaErrorInvalidValue;
  return launcher.by_table(size, table);
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace fastinit::cuda
