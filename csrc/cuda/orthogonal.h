// Small orthogonal matrices on the current CUDA device. Includes neither torch nor CUDA.
#pragma once

#include <cstddef>

#include "core/small_matrices.h"

struct CUstream_st;

namespace fastinit::cuda {

// Whether a thread block of the current device holds such a matrix in shared memory.
bool fits_shared_memory(const SmallShape& shape);

// Queues the matrices in the order of `stream`: one thread block each, one launch for every 64
// batches. Nothing here waits. Returns a cudaError_t, 0 on success.
int make_orthogonal(const SmallShape& shape, const SmallBatch* batches, size_t count,
                    CUstream_st* stream);

}  // namespace fastinit::cuda
