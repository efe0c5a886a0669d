// In place of csrc/cpu/dispatch.cpp: the AVX-512 lanes are the ones over the stand-ins, so every
// processor has them, and the drivers choose among the capabilities at run time.
#include "cases.h"

namespace native {
int forced = 0;
}

namespace fastinit::cpu {

const std::vector<Capability>& capabilities() {
  static const std::vector<Capability> all = [] {
    std::vector<Capability> list{
        {"scalar", scalar::generate_run, scalar::reflect32, scalar::reflect64}};
#if FASTINIT_X86_64
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      list.push_back({"avx2", avx2::generate_run, avx2::reflect32, avx2::reflect64});
#endif
    list.push_back({"avx512", avx512::generate_run, avx512::reflect32, avx512::reflect64});
    return list;
  }();
  return all;
}

const Capability& capability() { return capabilities()[native::forced]; }

}  // namespace fastinit::cpu
