#include "cuda/executor.h"

#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/tiling.h"

namespace fastinit::cuda {
namespace {

// Thread blocks per multiprocessor in a launch: several times what it holds at once, so that blocks
// with more work than others even out.
constexpr uint64_t kBlocksPerMultiprocessor = 32;

uint64_t align_up(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

size_t tasks_with_elements(const FillTask* tasks, size_t count) {
  size_t n = 0;
  for (size_t k = 0; k < count; ++k) n += tasks[k].layout.numel() > 0;
  return n;
}

// Null for a kind without a kernel of its own, which travels as a list of one.
SingleTaskKernel kernel_of(const Transform& t) {
  if (t.kind == Kind::Constant) return constant_kernel();
  if (may_clamp_negative_zero(t)) return nullptr;
  if (t.kind == Kind::Words) return words_kernel();
  if (t.kind == Kind::Uniform) return uniform_kernel(t);
  if (t.kind == Kind::Normal) return normal_kernel(t);
  if (t.kind == Kind::Central) return central_kernel(t);
  return nullptr;
}

unsigned grid_for(uint64_t tiles, uint64_t multiprocessors) {
  const uint64_t most = multiprocessors * kBlocksPerMultiprocessor;
  return static_cast<unsigned>(tiles < most ? tiles : most);
}

unsigned shared_bytes_of(const TiledTask& task) {
  return task.access == Access::Channels ? unsigned{kChannelBytes} : 0;
}

cudaError_t launch_single_task(SingleTaskKernel kernel, const TiledTask& task,
                               uint64_t multiprocessors, cudaStream_t stream) {
  SingleTaskParams params;
  params.task = task;
  params.task.vectorized = true;
  tile_whole_row(params.task);
  params.value_keys = philox_keys(task.key, task.purpose);
  params.low_keys = philox_keys(task.key, Purpose::Low);
  FASTINIT_LAUNCH(kernel, grid_for(task.tiles, multiprocessors), kBlockThreads,
                  shared_bytes_of(task), stream, params);
  return cudaGetLastError();
}

struct Launcher {
  const FillTask* tasks;
  size_t count;
  uint64_t multiprocessors;
  cudaStream_t stream;
  uint32_t tile_size;
  size_t next = 0;
  unsigned shared_bytes = 0;  // of what has been taken for a launch

  // The next task with elements, if there is one.
  bool take(TiledTask& task) {
    while (next < count) {
      task = tile_task(tasks[next++], tile_size);
      shared_bytes = std::max(shared_bytes, shared_bytes_of(task));
      if (task.tiles > 0) return true;
    }
    return false;
  }

  cudaError_t multi_task(MultiTaskParams& params, uint64_t tiles) const {
    return launch_multi_task(params, tiles, grid_for(tiles, multiprocessors), shared_bytes, stream);
  }

  cudaError_t by_value() {
    MultiTaskParams params{};
    TiledTask* const taken = params.tasks_by_value;
    uint64_t* const first_tile = params.first_tile_by_value;
    bool more = true;
    while (more) {
      uint32_t n = 0;
      shared_bytes = 0;
      for (; n < kTasksByValue && (more = take(taken[n])); ++n)
        first_tile[n + 1] = first_tile[n] + taken[n].tiles;
      params.count = n;
      const SingleTaskKernel kernel = n == 1 ? kernel_of(taken[0].transform) : nullptr;
      cudaError_t error = cudaSuccess;
      if (kernel != nullptr)
        error = launch_single_task(kernel, taken[0], multiprocessors, stream);
      else if (n > 0)
        error = multi_task(params, first_tile[n]);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }

  cudaError_t by_table(size_t size, const TableMemory& memory) {
    char* const host = static_cast<char*>(memory.host);
    const char* const device = static_cast<const char*>(memory.device);
    const uint64_t behind = align_up((size + 1) * sizeof(uint64_t));
    uint64_t* const first_tile = reinterpret_cast<uint64_t*>(host);
    TiledTask* const tiled = reinterpret_cast<TiledTask*>(host + behind);
    first_tile[0] = 0;
    for (size_t k = 0; k < size; ++k) {
      take(tiled[k]);
      first_tile[k + 1] = first_tile[k] + tiled[k].tiles;
    }
    const cudaError_t error =
        cudaMemcpyAsync(memory.device, memory.host, behind + size * sizeof(TiledTask),
                        cudaMemcpyHostToDevice, stream);
    if (error != cudaSuccess) return error;
    MultiTaskParams params{};
    params.first_tile = reinterpret_cast<const uint64_t*>(device);
    params.tasks = reinterpret_cast<const TiledTask*>(device + behind);
    params.count = static_cast<uint32_t>(size);
    return multi_task(params, first_tile[size]);
  }
};

}  // namespace

size_t table_bytes(const FillTask* tasks, size_t count) {
  const size_t size = tasks_with_elements(tasks, count);
  return size <= 1 ? 0 : align_up((size + 1) * sizeof(uint64_t)) + size * sizeof(TiledTask);
}

int execute(const FillTask* tasks, size_t count, CUstream_st* stream, const TableMemory& table) {
  const size_t size = tasks_with_elements(tasks, count);
  if (size == 0) return cudaSuccess;
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const auto width = static_cast<uint64_t>(multiprocessors);
  uint64_t vectors = 0;
  for (size_t k = 0; k < count; ++k) vectors += vectors_of(tasks[k]);
  const uint32_t most = size == 1 ? kLargeTileSize : kTileSize;
  Launcher launcher{tasks, count, width, stream, tile_size_for(vectors, width, most)};
  if (table.bytes == 0 || size == 1) return launcher.by_value();
  if (table.bytes < table_bytes(tasks, count)) return cudaErrorInvalidValue;
  return launcher.by_table(size, table);
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace fastinit::cuda
