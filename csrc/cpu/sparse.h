// Zeroes an exact number of elements of every column: those with the smallest MASK words.
#pragma once

#include <cstdint>

#include "core/matrix_place.h"
#include "cpu/parallel.h"

namespace fastinit::cpu {

struct SparseTask {
  char* data;
  int64_t rows, cols;
  int64_t row_stride, col_stride;  // in elements
  int item_size;                   // 1, 2, 4, 8 or 16
  uint64_t key;
  int64_t count;      // of zeros in each column of the whole, in [0, whole.rows]
  MatrixPlace whole;  // what these rows and columns are a part of
};

void zero_smallest(const SparseTask& task, const ThreadPool& pool);

}  // namespace fastinit::cpu
