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

// Whether quotients and roots in float are made from estimates (core/from_estimate.h): in device
// code, and where tests run it on the host.
#if !defined(FASTINIT_ESTIMATES)
#define FASTINIT_ESTIMATES FASTINIT_DEVICE_PASS
#endif

// A constant array that device code may read as well: it must then be a device variable.
#if FASTINIT_DEVICE_PASS
#define FASTINIT_TABLE __device__ constexpr
#else
#define FASTINIT_TABLE constexpr
#endif

// Before a loop whose arrays have to become registers. nvcc's pass for the host takes neither.
#if defined(__CUDACC__) && !FASTINIT_DEVICE_PASS
#define FASTINIT_UNROLL
#elif defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define FASTINIT_UNROLL _Pragma("GCC unroll 16")
#else
#define FASTINIT_UNROLL _Pragma("unroll")
#endif

// Before a loop that device code should keep as one.
#if FASTINIT_DEVICE_PASS
#define FASTINIT_KEEP_LOOP _Pragma("unroll 1")
#else
#define FASTINIT_KEEP_LOOP
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

// GCC 12 and clang have it; older GCC has __builtin_shuffle, which clang lacks.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define FASTINIT_SHUFFLEVECTOR 1
#endif
#endif
#if !defined(FASTINIT_SHUFFLEVECTOR)
#define FASTINIT_SHUFFLEVECTOR 0
#endif
