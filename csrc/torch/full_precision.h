// Matrix products in the precision of their operands, whatever the caller allows: no autocast, no
// TF32, no bfloat16 inside float32 products. Settings are as before when the object is gone.
#pragma once

#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <ATen/Context.h>

namespace fastinit::ops {

// The CPU's setting is global, and inherited from a more general one where it is not given itself,
// so it is changed at the level that decides it. Nested and concurrent uses share one change.
class FullPrecisionOnCpu {
 public:
  FullPrecisionOnCpu();
  ~FullPrecisionOnCpu();
  FullPrecisionOnCpu(const FullPrecisionOnCpu&) = delete;
  FullPrecisionOnCpu& operator=(const FullPrecisionOnCpu&) = delete;
};

class FullPrecision {
 public:
  FullPrecision() : no_autocast_(c10::autocast_dispatch_keyset) {}

 private:
  c10::impl::ExcludeDispatchKeyGuard no_autocast_;
  at::NoTF32Guard no_tf32_;  // of this thread, for CUDA
  FullPrecisionOnCpu on_cpu_;
};

}  // namespace fastinit::ops
