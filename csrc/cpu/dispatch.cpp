#include "cpu/dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace fastinit::cpu {

const std::vector<Capability>& capabilities() {
  static const std::vector<Capability> found = [] {
    std::vector<Capability> list{FASTINIT_CAPABILITY(scalar)};
#if FASTINIT_X86_64
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("popcnt")) {
      list.push_back(FASTINIT_CAPABILITY(avx2));
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vl"))
        list.push_back(FASTINIT_CAPABILITY(avx512));
    }
#endif
    return list;
  }();
  return found;
}

const Capability& capability() {
  static const Capability& chosen = []() -> const Capability& {
    const char* forced = std::getenv("FASTINIT_CPU_CAPABILITY");
    if (forced == nullptr || *forced == '\0') return capabilities().back();
    std::string names;
    for (const Capability& c : capabilities()) {
      if (std::string(forced) == c.name) return c;
      names += (names.empty() ? "" : ", ") + std::string(c.name);
    }
    throw std::runtime_error("FASTINIT_CPU_CAPABILITY is '" + std::string(forced) +
                             "', but this processor has: " + names);
  }();
  return chosen;
}

}  // namespace fastinit::cpu
