// What the .cu files share to launch. The host-run tests define FASTINIT_LAUNCH themselves
// (tests/native/cuda_shim.h).
#pragma once

#include <cuda_runtime.h>

#include "cuda/plan.h"

#if !defined(FASTINIT_LAUNCH)
#define FASTINIT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
// The dynamic shared memory of a thread block, aligned to 16 bytes.
#define FASTINIT_SHARED_MEMORY(name) extern __shared__ uint4 name[]
#endif

namespace fastinit::cuda {

using SingleKernel = void (*)(const Single);

// The kernel for a single task of a kind, in the file of its kind; null where there is none, and
// the task travels as a list of one.
SingleKernel constant_kernel(const Transform& t);
SingleKernel uniform_kernel(const Transform& t);
SingleKernel normal_kernel(const Transform& t);
SingleKernel central_kernel(const Transform& t);

// Tasks of a launch: up to kFew by value, more in device memory. `count` tasks; first_tile holds
// their first tiles and, behind the last, the number of all. Every thread block takes `share`
// tiles, the first `more` of them another one.
constexpr int kFew = 5;
struct Tasks {
  const uint64_t* first_tile;
  const Record* records;  // null: those below
  uint32_t count;
  uint32_t more;
  uint64_t share;
  uint64_t few_first_tile[kFew + 1];
  Record few[kFew];
};
static_assert(sizeof(Tasks) <= 4096, "kernel parameters are limited");
cudaError_t launch_many(Tasks& tasks, uint64_t tiles, unsigned grid, cudaStream_t stream);

}  // namespace fastinit::cuda
