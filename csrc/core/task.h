// FillTask: the one unit of work. A call is a list of these, whatever the device.
#pragma once

#include <cstdint>

#include "core/distributions.h"
#include "core/dtype.h"
#include "core/layout.h"
#include "core/philox.h"

namespace fastinit {

struct Transform {
  Kind kind;
  DType dtype;
  uint8_t item_size;  // bytes of one element in memory
  bool clamped;       // false where no sample can leave [lo, hi]
  union {
    TransformArgs<float> f32;
    TransformArgs<double> f64;
    uint8_t pattern[16];  // Constant: the bytes of one element
  };
};

struct FillTask {
  char* data;
  Layout layout;
  Transform transform;
  uint64_t key;
  Purpose purpose;
};

}  // namespace fastinit
