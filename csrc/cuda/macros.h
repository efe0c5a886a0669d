// What differs between nvcc and the host compiler of the tests, which brings its own
// (tests/native/cuda_shim.h).
#pragma once

#include <cuda_runtime.h>

#define FASTINIT_DEVICE __device__ __forceinline__

#if !defined(FASTINIT_LAUNCH)
#define FASTINIT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
// The dynamic shared memory of a thread block, aligned to 16 bytes.
#define FASTINIT_SHARED_MEMORY(name) extern __shared__ uint4 name[]
#endif
