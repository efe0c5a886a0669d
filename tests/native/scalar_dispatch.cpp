// In place of csrc/cpu/dispatch.cpp where the CPU is no more than a reference: its scalar lanes.
#include "cpu/dispatch.h"

namespace native {
int forced = 0;  // the only one
}

namespace fastinit::cpu {

const std::vector<Capability>& capabilities() {
  static const std::vector<Capability> all{FASTINIT_CAPABILITY(scalar)};
  return all;
}

const Capability& capability() { return capabilities()[0]; }

}  // namespace fastinit::cpu
