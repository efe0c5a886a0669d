// Just enough of CUDA to run kernels on the host: the same .cu files compiled as C++, thread blocks
// one after the other, their threads one after the other. A thread that meets __syncthreads waits
// on a stack of its own (a fibre) while the others catch up; kernels without it need only one. It
// proves indexing and arithmetic, under the sanitizers if wanted, but no races.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))

struct uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

constexpr size_t kStackBytes = 256 * 1024;

// What a test sets and sees.
inline int processors = 3;
inline int shared_limit = 227 * 1024;
inline int launches = 0;
inline std::function<bool(unsigned)> only_block;  // empty: all blocks of a grid run

// Dynamic shared memory of the running block.
inline std::vector<uint64_t> shared;
inline void* shared_memory() { return shared.data(); }

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  unsigned thread = 0;
  void* fake_stack = nullptr;
};

// The threads of one block at a time.
struct Block {
  std::function<void()> body;
  unsigned next = 0, count = 0;  // threads not yet begun, and all
  ucontext_t scheduler;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  Fiber* running = nullptr;
  bool parked = false;  // the fibre that came back waits at a barrier
};
inline Block block;

inline void set_thread(unsigned t) {
  threadIdx.x = t % blockDim.x;
  threadIdx.y = t / blockDim.x % blockDim.y;
  threadIdx.z = t / blockDim.x / blockDim.y;
}

// A fibre goes through threads until one of them waits; the scheduler then begins another fibre.
inline void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
  while (block.next < block.count) {
    block.running->thread = block.next++;
    set_thread(block.running->thread);
    block.body();
  }
  block.parked = false;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, block.scheduler_stack, block.scheduler_stack_bytes);
#endif
  swapcontext(&block.running->context, &block.scheduler);
}

// Runs a fibre until it ends or waits; whether it waits.
inline bool resume(Fiber& fiber) {
  block.running = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&block.scheduler_fake_stack, fiber.stack.get(), kStackBytes);
#endif
  swapcontext(&block.scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(block.scheduler_fake_stack, nullptr, nullptr);
#endif
  return block.parked;
}

inline void wait_for_block() {
  Fiber& me = *block.running;
  block.parked = true;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&me.fake_stack, block.scheduler_stack,
                                 block.scheduler_stack_bytes);
#endif
  swapcontext(&me.context, &block.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(me.fake_stack, &block.scheduler_stack,
                                  &block.scheduler_stack_bytes);
#endif
  set_thread(me.thread);
}

inline void run_block() {
  static std::vector<std::unique_ptr<Fiber>> fibers;
  block.next = 0;
  block.count = blockDim.x * blockDim.y * blockDim.z;
  std::vector<Fiber*> waiting, still_waiting;
  size_t used = 0;
  while (block.next < block.count) {
    if (used == fibers.size()) fibers.push_back(std::make_unique<Fiber>());
    Fiber& fiber = *fibers[used++];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
    if (resume(fiber)) waiting.push_back(&fiber);
  }
  // All threads have begun; every round lets those that wait pass one barrier.
  while (!waiting.empty()) {
    still_waiting.clear();
    for (Fiber* fiber : waiting)
      if (resume(*fiber)) still_waiting.push_back(fiber);
    waiting.swap(still_waiting);
  }
}

template <class Kernel, class... Args>
void launch(Kernel kernel, dim3 grid, dim3 threads, size_t shared_bytes, const Args&... args) {
  ++launches;
  gridDim = grid;
  blockDim = threads;
  shared.assign((shared_bytes + 7) / 8, 0x5a5a5a5a5a5a5a5au);
  block.body = [&] { kernel(args...); };
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        if (only_block && !only_block(x)) continue;
        blockIdx = dim3(x, y, z);
        run_block();
      }
}

}  // namespace shim

inline void __syncthreads() { shim::wait_for_block(); }

// LAUNCH(kernel, grid, block, shared memory in bytes, stream, arguments...)
#define FASTINIT_LAUNCH(kernel, grid, threads, shared_bytes, stream, ...) \
  (static_cast<void>(stream), shim::launch(kernel, grid, threads, shared_bytes, __VA_ARGS__))

// malloc aligns to 16 bytes, which the memory behind a vector comes from.
#define FASTINIT_SHARED_MEMORY(name) uint4* const name = static_cast<uint4*>(shim::shared_memory())

// The runtime, as far as launchers call it. Nothing fails.
using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= shim::shared_limit ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  *value = what == cudaDevAttrMultiProcessorCount ? shim::processors : shim::shared_limit;
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
