// All loops for processors with AVX-512 F, DQ and VL.
#include "cpu/dispatch.h"

#if FASTINIT_X86_64
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the deliberately undefined operands of its own intrinsics for a mistake.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/coefficients.h"
#include "core/lanes_scalar.h"
#include "cpu/orthogonal.h"
#include "cpu/target.h"

FASTINIT_TARGET_BEGIN("avx2,fma,popcnt,prfchw,avx512f,avx512dq,avx512vl")
#include "core/reflector.h"
#include "core/rounding.h"
#include "core/transforms.h"
#include "cpu/lanes_avx512.h"

namespace fastinit::cpu::avx512 {
#include "cpu/fill_kernel.inl"
#include "cpu/orthogonal_kernel.inl"
#include "cpu/plain_loops.inl"
}  // namespace fastinit::cpu::avx512
FASTINIT_TARGET_END
#endif
