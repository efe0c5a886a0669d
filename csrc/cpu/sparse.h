// Zeroes an exact number of elements of every column: those with the smallest MASK words.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace fastinit::cpu {

struct SparseTask {
  char* data;
  int64_t rows, cols;
  int64_t row_stride, col_stride;  // in elements
  int item_size;                   // 1, 2, 4, 8 or 16
  uint64_t key;
  int64_t count;  // of zeros in each column, in [0, rows]
};

void zero_smallest(const SparseTask& task, const ThreadPool& pool);

}  // namespace fastinit::cpu
