// All loops for any processor.
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/reflector.h"
#include "core/rounding.h"
#include "core/transforms.h"
#include "cpu/dispatch.h"
#include "cpu/lanes_scalar.h"
#include "cpu/orthogonal.h"

namespace fastinit::cpu::scalar {
#include "cpu/fill_kernel.inl"
#include "cpu/orthogonal_kernel.inl"
#include "cpu/plain_loops.inl"
}  // namespace fastinit::cpu::scalar
