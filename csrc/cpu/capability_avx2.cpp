// All loops for processors with AVX2 and FMA.
#include "cpu/dispatch.h"

#if FASTINIT_X86_64
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/coefficients.h"
#include "core/lanes_scalar.h"
#include "cpu/orthogonal.h"
#include "cpu/target.h"

// Every processor with AVX2 takes PREFETCHW, if only as no operation.
FASTINIT_TARGET_BEGIN("avx2,fma,popcnt,prfchw")
#include "core/reflector.h"
#include "core/rounding.h"
#include "core/transforms.h"
#include "cpu/lanes_avx2.h"

namespace fastinit::cpu::avx2 {
#include "cpu/fill_kernel.inl"
#include "cpu/orthogonal_kernel.inl"
#include "cpu/plain_loops.inl"
}  // namespace fastinit::cpu::avx2
FASTINIT_TARGET_END
#endif
