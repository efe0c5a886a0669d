// Round to nearest, subnormals kept, for the lifetime of the object; then whatever the thread had.
// Torch's flush-denormal setting and fesetround are per thread, so each worker needs its own.
#pragma once

#include <cfenv>
#include <cstdint>

#include "core/macros.h"

#if FASTINIT_X86_64
#include <xmmintrin.h>
#endif

namespace fastinit::host {

class FpEnv {
 public:
  FpEnv(const FpEnv&) = delete;
  FpEnv& operator=(const FpEnv&) = delete;
#if FASTINIT_X86_64
  // 0x1f80: every exception masked, no flag raised, round to nearest, no FTZ, no DAZ.
  FpEnv() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~FpEnv() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif FASTINIT_AARCH64
  FpEnv() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
  }
  ~FpEnv() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#else
  FpEnv() {
    std::fegetenv(&saved_);
    std::fesetround(FE_TONEAREST);
  }
  ~FpEnv() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
#endif
};

}  // namespace fastinit::host
