// In place of csrc/cpu/dispatch.cpp: the AVX-512 lanes are the ones over the stand-ins, so every
// processor has them, and the drivers choose among the capabilities at run time.
#include "cases.h"

namespace native {
int forced = 0;
}

namespace fastinit::cpu {

const std::vector<Capability>& capabilities() {
  static const std::vector<Capability> all = [] {
    std::vector<Capability> list{FASTINIT_CAPABILITY(scalar)};
#if FASTINIT_X86_64
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      list.push_back(FASTINIT_CAPABILITY(avx2));
#endif
    list.push_back(FASTINIT_CAPABILITY(avx512));
    return list;
  }();
  return all;
}

const Capability& capability() { return capabilities()[native::forced]; }

}  // namespace fastinit::cpu
