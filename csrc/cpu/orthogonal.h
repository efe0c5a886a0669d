// Small orthogonal matrices on the host: drawn, reflected and written by one thread each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/small_matrices.h"
#include "cpu/parallel.h"

namespace fastinit::cpu {

// Whether reflecting in the caches of one core is the way for this shape.
bool is_small(const SmallShape& shape);

void make_orthogonal(const SmallShape& shape, const SmallBatch* batches, size_t count,
                     const ThreadPool& pool);

// Sums of squares in double of columns first ... last - 1 of a matrix one of whose strides is 1.
struct Columns {
  const float* data;
  int64_t rows, row_stride, col_stride;
};
void add_squares(const Columns& x, int64_t first, int64_t last, double* squares);

// The loop body of a capability: `matrix` is tall x narrow with `pitch` elements between rows and
// at least kReflectPadding initialised ones behind each; `panel` has room for 4 rows of 4 elements
// and for tall ones.
struct Reflection {
  void* matrix;
  void* panel;
  int64_t tall, narrow, pitch;
  double gain;
};
constexpr int64_t kReflectPadding = 16;

}  // namespace fastinit::cpu
