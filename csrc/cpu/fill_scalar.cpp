// Fills on any processor.
#include <cstring>
#include <type_traits>

#include "core/rounding.h"
#include "core/transforms.h"
#include "cpu/dispatch.h"
#include "cpu/lanes_scalar.h"

namespace fastinit::cpu::scalar {
#include "cpu/fill_kernel.inl"
}  // namespace fastinit::cpu::scalar
