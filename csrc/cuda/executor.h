// Runs a list of fill tasks on the current CUDA device. Includes neither torch nor CUDA, so that
// csrc/torch compiles against it without a toolkit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/task.h"

struct CUstream_st;

namespace fastinit::cuda {

// Pinned host and device memory for the table of a launch of many tasks, aligned to 16 bytes, each
// of at least table_bytes(). Both must stay until the work queued by `execute` is done.
struct TableMemory {
  void* host;
  void* device;
  size_t bytes;
};

// Bytes of the table of these tasks; 0 where they travel as kernel parameters: at most one task
// has elements.
size_t table_bytes(const FillTask* tasks, size_t count);

// Queues the fills on the current device, in the order of `stream`; tasks must not overlap in
// memory. With table.bytes == 0 the tasks travel as kernel parameters, a few a launch (inside a
// graph capture, where a staged table would have to outlive the graph). Nothing here waits.
// Returns a cudaError_t, 0 on success; cudaErrorInvalidValue where the table is too small.
int execute(const FillTask* tasks, size_t count, CUstream_st* stream, const TableMemory& table);

// The message of such an error.
const char* error_text(int error);

}  // namespace fastinit::cuda
