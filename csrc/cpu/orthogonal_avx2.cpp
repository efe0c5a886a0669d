// Small orthogonal matrices on processors with AVX2 and FMA.
#include "cpu/dispatch.h"

#if FASTINIT_X86_64
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "core/lanes_scalar.h"
#include "cpu/orthogonal.h"
#include "cpu/target.h"

FASTINIT_TARGET_BEGIN("avx2,fma")
#include "core/reflector.h"
#include "cpu/lanes_avx2.h"

namespace fastinit::cpu::avx2 {
#include "cpu/orthogonal_kernel.inl"
#include "cpu/plain_loops.inl"
}  // namespace fastinit::cpu::avx2
FASTINIT_TARGET_END
#endif
