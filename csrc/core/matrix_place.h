// Where a matrix lies in a larger one, which it may be all of.
#pragma once

#include <cstdint>

namespace fastinit {

struct MatrixPlace {
  int64_t rows, cols;            // of the larger one
  int64_t first_row, first_col;  // there, of the matrix
};

}  // namespace fastinit
