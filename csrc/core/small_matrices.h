// Small orthogonal matrices to make: each fits the caches of one core, or the shared memory of one
// multiprocessor.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/task.h"

namespace fastinit {

// Matrices of one shape. A wide one is the transpose of a tall one.
struct SmallShape {
  DType dtype;  // F32 or F64
  int64_t rows, cols;
  double gain;

  FASTINIT_HD int64_t tall() const { return rows < cols ? cols : rows; }
  FASTINIT_HD int64_t narrow() const { return rows < cols ? rows : cols; }
  FASTINIT_HD int64_t size() const { return rows * cols; }
};

// `count` row-major matrices whose draws follow each other in the stream.
struct SmallBatch {
  uint64_t key;
  uint64_t first;     // number of the first matrix' first element in the stream
  const void* given;  // row-major matrices in place of the draws, one behind the other, or null
  void* out;          // may be `given`
  int64_t step;       // elements from one matrix of `out` to the next
  int64_t count;
};

}  // namespace fastinit
