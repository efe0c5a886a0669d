// Logical index <-> memory address of a tensor that may be strided, and may be one shard of a
// larger one. The logical index of an element is its row-major index in the full tensor.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastinit {

struct Dim {
  int64_t size;
  int64_t memory;   // stride in memory, in elements
  int64_t logical;  // stride of the row-major index in the full tensor
};

constexpr int kMaxDims = 8;

// Dimensions in logical order (slowest first), none of size 1, neighbours merged where both strides
// allow. None left means one element. `first` is the logical index of the element at `data`.
struct Layout {
  int ndim;
  Dim dims[kMaxDims];
  uint64_t first;

  FASTINIT_HD int64_t numel() const {
    int64_t n = 1;
    for (int k = 0; k < ndim; ++k) n *= dims[k].size;
    return n;
  }
};

// Drops and merges dimensions in place; returns how many remain.
inline int coalesce(Dim* dims, int ndim) {
  int kept = 0;
  for (int k = 0; k < ndim; ++k) {
    const Dim d = dims[k];
    if (d.size == 1) continue;
    if (kept > 0) {
      Dim& outer = dims[kept - 1];
      if (outer.memory == d.memory * d.size && outer.logical == d.logical * d.size) {
        outer = {outer.size * d.size, d.memory, d.logical};
        continue;
      }
    }
    dims[kept++] = d;
  }
  return kept;
}

}  // namespace fastinit
