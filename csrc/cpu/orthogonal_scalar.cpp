// Small orthogonal matrices on any processor.
#include <cmath>
#include <cstring>

#include "core/reflector.h"
#include "cpu/dispatch.h"
#include "cpu/lanes_scalar.h"
#include "cpu/orthogonal.h"

namespace fastinit::cpu::scalar {
#include "cpu/orthogonal_kernel.inl"
#include "cpu/plain_loops.inl"
}  // namespace fastinit::cpu::scalar
