// Compiler facts, decided here and nowhere else.
#pragma once

#if defined(__CUDACC__)
#define FASTINIT_HD __host__ __device__
#else
#define FASTINIT_HD
#endif

#if defined(__CUDACC__)
#define FASTINIT_INLINE __forceinline__
#else
#define FASTINIT_INLINE inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)
#define FASTINIT_DEVICE_PASS 1
#else
#define FASTINIT_DEVICE_PASS 0
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define FASTINIT_X86_64 1
#else
#define FASTINIT_X86_64 0
#endif

#if defined(__aarch64__)
#define FASTINIT_AARCH64 1
#else
#define FASTINIT_AARCH64 0
#endif
