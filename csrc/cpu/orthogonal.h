// Small orthogonal matrices on the host: drawn, reflected and written by one thread each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/task.h"
#include "cpu/executor.h"

namespace fastinit::cpu {

// Matrices of one shape. A wide one is the transpose of a tall one.
struct SmallShape {
  DType dtype;  // F32 or F64
  int64_t rows, cols;
  double gain;

  int64_t tall() const { return rows < cols ? cols : rows; }
  int64_t narrow() const { return rows < cols ? rows : cols; }
};

struct SmallMatrix {
  uint64_t key;
  uint64_t first;     // number of its first element in the stream
  const void* given;  // a row-major matrix in place of the draws, or null
  void* out;          // row-major; may be `given`
};

// Whether reflecting in the caches of one core is the way for this shape.
bool is_small(int64_t rows, int64_t cols, DType dtype);

void make_orthogonal(const SmallShape& shape, const SmallMatrix* matrices, size_t count,
                     const ThreadPool& pool);

// Sums of squares in double of columns first ... last - 1 of a matrix one of whose strides is 1.
struct Columns {
  const float* data;
  int64_t rows, row_stride, col_stride;
};
void add_squares(const Columns& x, int64_t first, int64_t last, double* squares);

// The loop body of a capability: `matrix` is tall x narrow with `pitch` elements between rows and
// at least kReflectPadding initialised ones behind each; `panel` has room for 4 tall elements.
struct Reflection {
  void* matrix;
  void* panel;
  int64_t tall, narrow, pitch;
  double gain;
};
constexpr int64_t kReflectPadding = 16;

}  // namespace fastinit::cpu
