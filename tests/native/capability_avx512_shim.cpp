// csrc/cpu/capability_avx512.cpp over the scalar stand-ins: the same lanes, kernels and namespace.
#include <cmath>
#include <type_traits>

#include "avx512_shim.h"
#include "core/macros.h"

// Lanes and transforms as ordinary functions, or this file takes a minute to compile.
#undef FASTINIT_INLINE
#define FASTINIT_INLINE inline

#include "core/coefficients.h"
#include "core/reflector.h"
#include "core/rounding.h"
#include "core/transforms.h"
#include "cpu/dispatch.h"
#include "cpu/lanes_avx512.h"
#include "cpu/orthogonal.h"

namespace fastinit::cpu::avx512 {
#include "cpu/fill_kernel.inl"
#include "cpu/orthogonal_kernel.inl"
#include "cpu/plain_loops.inl"
}  // namespace fastinit::cpu::avx512
