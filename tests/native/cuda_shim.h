// Just enough of CUDA to run kernels on the host: the same .cu files compiled as C++, thread blocks
// one after the other, their threads one after the other. A thread that meets a barrier, of its
// block or of its warp, waits on a stack of its own (a fibre) while the others catch up; kernels
// without one need only one. It proves indexing and arithmetic, under the sanitizers if wanted, but
// no races; a barrier that not all its threads reach ends the program.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
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
constexpr unsigned kWarp = 32;

// What a test sets and sees.
inline int multiprocessors = 3;
inline int shared_limit = 227 * 1024;
inline int launches = 0;
inline std::function<bool(unsigned)> only_block;  // empty: all blocks of a grid run
// What another thread does once, when a kernel has been allowed more shared memory.
inline std::function<void()> meanwhile;

// Dynamic shared memory that kernels may have, beyond what all may.
constexpr size_t kPlainShared = 48 * 1024;
inline std::map<const void*, size_t> allowed;
inline bool failed = false;  // the last launch

// Dynamic shared memory of the running block.
inline std::vector<uint64_t> shared;
inline void* shared_memory() { return shared.data(); }

enum class Barrier { None, Warp, Block };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  unsigned thread = 0;
  Barrier at = Barrier::None;  // what it waits for
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
  std::vector<uint32_t> given;  // by the threads, to others of their warps
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
  block.running->at = Barrier::None;
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
  return fiber.at != Barrier::None;
}

inline void wait(Barrier at) {
  Fiber& me = *block.running;
  me.at = at;
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

// Where the fibres of a warp wait: at one barrier, all that the warp has.
inline Barrier barrier_of(const std::vector<Fiber*>& warp, unsigned first) {
  const unsigned left = block.count - first, lanes = left < kWarp ? left : kWarp;
  bool good = warp.empty() || warp.size() == lanes;
  for (const Fiber* fiber : warp) good = good && fiber->at == warp[0]->at;
  if (!good) {
    std::printf("a barrier that not all threads reach\n");
    std::abort();
  }
  return warp.empty() ? Barrier::None : warp[0]->at;
}

inline void run_block() {
  static std::vector<std::unique_ptr<Fiber>> fibers;
  block.next = 0;
  block.count = blockDim.x * blockDim.y * blockDim.z;
  block.given.assign(block.count, 0);
  std::vector<std::vector<Fiber*>> warps((block.count + kWarp - 1) / kWarp);
  size_t used = 0;
  while (block.next < block.count) {
    if (used == fibers.size()) fibers.push_back(std::make_unique<Fiber>());
    Fiber& fiber = *fibers[used++];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
    if (resume(fiber)) warps[fiber.thread / kWarp].push_back(&fiber);
  }
  // All threads have begun; every round lets those that wait pass one barrier.
  for (bool waiting = true; waiting;) {
    waiting = false;
    unsigned at_block = 0;
    for (size_t w = 0; w < warps.size(); ++w) {
      const Barrier at = barrier_of(warps[w], static_cast<unsigned>(w) * kWarp);
      waiting = waiting || at != Barrier::None;
      at_block += at == Barrier::Block;
    }
    if (at_block > 0 && at_block < warps.size()) {
      // Warps catch up with the block; one that has ended never does.
      for (const auto& warp : warps)
        if (warp.empty()) {
          std::printf("a barrier of the block that a warp never reaches\n");
          std::abort();
        }
    }
    for (auto& warp : warps) {
      if (warp.empty() || (warp[0]->at == Barrier::Block && at_block < warps.size())) continue;
      std::vector<Fiber*> still;
      for (Fiber* fiber : warp)
        if (resume(*fiber)) still.push_back(fiber);
      warp.swap(still);
    }
  }
}

template <class Kernel, class... Args>
void launch(Kernel kernel, dim3 grid, dim3 threads, size_t shared_bytes, const Args&... args) {
  ++launches;
  failed =
      shared_bytes > kPlainShared && shared_bytes > allowed[reinterpret_cast<const void*>(kernel)];
  if (failed) return;
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

inline void __syncthreads() { shim::wait(shim::Barrier::Block); }

// What is said to a warp is said to all of it.
inline void __syncwarp(unsigned = ~0u) { shim::wait(shim::Barrier::Warp); }
inline uint32_t __shfl_sync(unsigned mask, uint32_t value, unsigned from) {
  const unsigned me = shim::block.running->thread;
  shim::block.given[me] = value;
  __syncwarp(mask);
  const uint32_t got = shim::block.given[me / shim::kWarp * shim::kWarp + from % shim::kWarp];
  __syncwarp(mask);
  return got;
}
inline uint32_t __shfl_up_sync(unsigned mask, uint32_t value, unsigned by) {
  const unsigned lane = shim::block.running->thread % shim::kWarp;
  return __shfl_sync(mask, value, lane < by ? lane : lane - by);
}
inline uint32_t __shfl_xor_sync(unsigned mask, uint32_t value, unsigned with) {
  return __shfl_sync(mask, value, (shim::block.running->thread % shim::kWarp) ^ with);
}
inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline int __clz(uint32_t bits) { return bits == 0 ? 32 : __builtin_clz(bits); }

// LAUNCH(kernel, grid, block, shared memory in bytes, stream, arguments...)
#define FASTINIT_LAUNCH(kernel, grid, threads, shared_bytes, stream, ...) \
  (static_cast<void>(stream), shim::launch(kernel, grid, threads, shared_bytes, __VA_ARGS__))

// malloc aligns to 16 bytes, which the memory behind a vector comes from.
#define FASTINIT_SHARED_MEMORY(name) uint4* const name = static_cast<uint4*>(shim::shared_memory())

// The runtime, as far as launchers call it. Only shared memory can be too little.
using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel) {
  attributes->sharedSizeBytes = 416;  // more or less
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel kernel, cudaFuncAttribute, int bytes) {
  cudaFuncAttributes attributes{};
  cudaFuncGetAttributes(&attributes, kernel);
  if (bytes + static_cast<int>(attributes.sharedSizeBytes) > shim::shared_limit)
    return cudaErrorInvalidValue;
  shim::allowed[reinterpret_cast<const void*>(kernel)] = static_cast<size_t>(bytes);
  const auto other = std::move(shim::meanwhile);
  shim::meanwhile = nullptr;
  if (other) other();
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  *value = what == cudaDevAttrMultiProcessorCount ? shim::multiprocessors : shim::shared_limit;
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return shim::failed ? cudaErrorInvalidValue : cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
