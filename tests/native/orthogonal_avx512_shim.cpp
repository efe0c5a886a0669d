// csrc/cpu/orthogonal_avx512.cpp over the scalar stand-ins: the same lanes, kernel and namespace.
#include "avx512_shim.h"
#include "core/macros.h"
#undef FASTINIT_INLINE
#define FASTINIT_INLINE inline

#include <cmath>

#include "core/reflector.h"
#include "cpu/dispatch.h"
#include "cpu/lanes_avx512.h"
#include "cpu/orthogonal.h"

namespace fastinit::cpu::avx512 {
#include "cpu/orthogonal_kernel.inl"
#include "cpu/plain_loops.inl"
}  // namespace fastinit::cpu::avx512
