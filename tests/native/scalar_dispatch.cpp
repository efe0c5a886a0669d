// In place of csrc/cpu/dispatch.cpp where the CPU is no more than a reference: its scalar lanes.
#include "cpu/dispatch.h"

namespace fastinit::cpu {

const std::vector<Capability>& capabilities() {
  static const std::vector<Capability> all{{"scalar", scalar::generate_run}};
  return all;
}

const Capability& capability() { return capabilities()[0]; }

}  // namespace fastinit::cpu
