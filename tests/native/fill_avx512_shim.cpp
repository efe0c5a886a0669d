// csrc/cpu/fill_avx512.cpp over the scalar stand-ins: the same lanes, kernel and namespace.
#include <type_traits>

#include "avx512_shim.h"
#include "core/macros.h"

// Lanes and transforms as ordinary functions, or this file takes a minute to compile.
#undef FASTINIT_INLINE
#define FASTINIT_INLINE inline

#include "core/coefficients.h"
#include "core/rounding.h"
#include "core/transforms.h"
#include "cpu/dispatch.h"
#include "cpu/lanes_avx512.h"

namespace fastinit::cpu::avx512 {
#include "cpu/fill_kernel.inl"
}  // namespace fastinit::cpu::avx512
