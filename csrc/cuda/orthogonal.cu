// Small orthogonal matrices: one thread block draws, reflects and writes one, in shared memory. The
// method is that of csrc/cpu/orthogonal_kernel.inl: reflections from the last to the first, a few
// at a time; the columns to the right already hold Q, those to the left still the Gaussian.
#include "cuda/orthogonal.h"

#include "core/lanes_scalar.h"
#include "core/reflector.h"
#include "core/transforms.h"
#include "cuda/functors.cuh"
#include "cuda/kernels.h"

namespace fastinit::cuda {
namespace {

// Beyond this, blocks of many reflections in matrix products have more multiprocessors to use.
constexpr int64_t kSmallNarrow = 128, kSmallTall = 32768;
constexpr int kMostThreads = 256;
constexpr int kBlock = kReflections, kPairs = kBlock * (kBlock + 1) / 2;
// Threads that share a column, at most: every one of them adds up the others' sums.
constexpr int kSharing = 8;
// Batches of a launch, which travel as kernel parameters: so it can be captured in a graph.
constexpr int kBatches = 64;
constexpr int kPlainSharedBytes = 48 * 1024;  // what needs no asking

struct Small {
  SmallShape shape;
  int tall, narrow, pitch;
  int panel_at, sums_at;  // elements into shared memory
  SmallBatch batches[kBatches];
};
static_assert(sizeof(Small) <= 4096, "kernel parameters are limited");

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

int threads_for(const SmallShape& shape) {
  return shape.size() <= 1024 ? 64 : shape.size() <= 4096 ? 128 : kMostThreads;
}

// The matrix by rows of an odd number of elements, so that rows and columns both spread over the
// banks; the panel; the sums of threads that share a column. Bytes of it all.
int64_t plan_memory(const SmallShape& shape, Small& small) {
  const int64_t tall = shape.tall(), narrow = shape.narrow(), pitch = narrow | 1;
  const int64_t panel_at = round_up(tall * pitch, kBlock);
  const int64_t sums_at = panel_at + kBlock * (tall > kBlock ? tall : kBlock);
  const int64_t most = narrow > threads_for(shape) ? narrow : threads_for(shape);
  small.shape = shape;
  small.tall = static_cast<int>(tall);
  small.narrow = static_cast<int>(narrow);
  small.pitch = static_cast<int>(pitch);
  small.panel_at = static_cast<int>(panel_at);
  small.sums_at = static_cast<int>(sums_at);
  return (sums_at + kBlock * most) * item_size(shape.dtype);
}

// A row of the panel.
template <class Real>
struct alignas(kBlock * sizeof(Real)) Row {
  Real v[kBlock];
};

// What a block's threads share beside the matrix.
template <class Real>
struct State {
  ReflectionBlock<Real> block;
  double dot[kBlock][kBlock];
};

// A matrix, how much of it is left, and the threads at work on it.
template <class L>
struct Worker {
  using Real = typename L::Real;
  Real* const matrix;
  Real* const panel;
  Real* const sums;
  State<Real>& state;
  const int tall, narrow, pitch, threads, thread;

  // Element `at` of the matrix in row-major order, as it is in shared memory.
  FASTINIT_DEVICE int place(const SmallShape& shape, int at) const {
    const int cols = static_cast<int>(shape.cols), r = at / cols, c = at - r * cols;
    return shape.rows < shape.cols ? c * pitch + r : r * pitch + c;
  }

  FASTINIT_DEVICE void draw(const SmallShape& shape, uint64_t key, uint64_t first) const {
    const int size = tall * narrow, phase = static_cast<int>(first & 3);
    TransformArgs<Real> args{};
    args.normal = {Real(0), Real(1)};
#pragma unroll 1
    for (int b = thread; 4 * b < phase + size; b += threads) {
      const uint64_t n = first / 4 + static_cast<uint64_t>(b);
      const Words4 words = block(key, n, Purpose::Value);
      Words4 low = words;
      if constexpr (is_double<L>) low = block(key, n, Purpose::Low);
      Real v[4];
#pragma unroll
      for (int j = 0; j < 4; j += 2)
        normal_pair<L>(args, words.w[j], words.w[j + 1], low.w[j], low.w[j + 1], v[j], v[j + 1]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int at = 4 * b + j - phase;
        if (at >= 0 && at < size) matrix[place(shape, at)] = v[j];
      }
    }
  }

  // The columns from k on, `width` of them: copied to the panel, and their products.
  FASTINIT_DEVICE void load_panel(int k, int width) const {
    const int height = tall - k;
    for (int i = thread; i < height || i < kBlock; i += threads) {
      Row<Real> row;
#pragma unroll
      for (int s = 0; s < kBlock; ++s)
        row.v[s] = i < height && s < width && s <= i ? matrix[(k + i) * pitch + k + s] : Real(0);
      rows()[i] = row;
    }
    __syncthreads();
    // Several threads a product, then one.
    double* const parts = reinterpret_cast<double*>(sums);
    const int sharing = threads / kPairs, pair = thread / sharing;
    int s = 0, t = pair;  // of the pairs s <= t in order
    for (; s < kBlock && t >= kBlock - s; ++s) t -= kBlock - s;
    t += s;
    if (pair < kPairs) {
      double sum = 0;
      for (int i = thread - pair * sharing; i < height; i += sharing)
        sum += static_cast<double>(panel[i * kBlock + s]) * panel[i * kBlock + t];
      parts[thread] = sum;
    }
    __syncthreads();
    if (pair < kPairs && thread == pair * sharing) {
      double sum = 0;
      for (int j = 0; j < sharing; ++j) sum += parts[thread + j];
      state.dot[s][t] = sum;
    }
    __syncthreads();
  }

  FASTINIT_DEVICE Row<Real>* rows() const { return reinterpret_cast<Row<Real>*>(panel); }

  // The block's own columns, which the reflections before it left as columns of the identity.
  FASTINIT_DEVICE void write_own(int k, int width) const {
    const ReflectionBlock<Real>& block = state.block;
    for (int i = thread; i < tall - k; i += threads) {
      const Row<Real> row = rows()[i];
#pragma unroll
      for (int t = 0; t < kBlock; ++t) {
        Real sum = i == t ? block.diagonal[t] : Real(0);
#pragma unroll
        for (int s = 0; s < kBlock; ++s) sum = L::negative_fma(row.v[s], block.own[s][t], sum);
        if (t < width) matrix[(k + i) * pitch + k + t] = sum;
      }
    }
  }

  // Calls f(column, part) for the columns to the right, `sharing` parts of the rows for each.
  template <class F>
  FASTINIT_DEVICE void each_column(int right, int sharing, const F& f) const {
    for (int item = thread; item < right * sharing; item += threads) {
      const int part = item / right;
      f(item - part * right, part);
    }
  }

  // What is to the right of the block, whose first kBlock rows are still zero (and not there).
  FASTINIT_DEVICE void reflect_right(int k) const {
    const int right = narrow - k - kBlock, height = tall - k;
    const int fit = right > 0 ? threads / right : 0;
    const int sharing = fit < 1 ? 1 : fit < kSharing ? fit : kSharing;
    Real* const first = matrix + k * pitch + k + kBlock;
    each_column(right, sharing, [&](int c, int part) {
      Real sum[kBlock] = {};
      for (int i = kBlock + part; i < height; i += sharing) {
        const Row<Real> row = rows()[i];
        const Real q = first[i * pitch + c];
#pragma unroll
        for (int s = 0; s < kBlock; ++s) sum[s] = L::fma(row.v[s], q, sum[s]);
      }
#pragma unroll
      for (int s = 0; s < kBlock; ++s) sums[(part * kBlock + s) * right + c] = sum[s];
    });
    __syncthreads();
    each_column(right, sharing, [&](int c, int part) {
      Real sum[kBlock] = {}, w[kBlock];
      for (int other = 0; other < sharing; ++other) {
#pragma unroll
        for (int s = 0; s < kBlock; ++s)
          sum[s] = L::add(sum[s], sums[(other * kBlock + s) * right + c]);
      }
#pragma unroll
      for (int s = 0; s < kBlock; ++s) {
        w[s] = L::mul(state.block.inverse[s][s], sum[s]);
#pragma unroll
        for (int t = s + 1; t < kBlock; ++t) w[s] = L::fma(state.block.inverse[s][t], sum[t], w[s]);
      }
      for (int i = part; i < height; i += sharing) {
        const Row<Real> row = rows()[i];
        Real q = i < kBlock ? Real(0) : first[i * pitch + c];
#pragma unroll
        for (int s = 0; s < kBlock; ++s) q = L::negative_fma(row.v[s], w[s], q);
        first[i * pitch + c] = q;
      }
    });
  }
};

template <class L>
__global__ void __launch_bounds__(kMostThreads) make_small(const __grid_constant__ Small small) {
  using Real = typename L::Real;
  FASTINIT_SHARED_MEMORY(memory);
  __shared__ State<Real> state;
  Real* const matrix = reinterpret_cast<Real*>(memory);
  const Worker<L> worker{matrix,
                         matrix + small.panel_at,
                         matrix + small.sums_at,
                         state,
                         small.tall,
                         small.narrow,
                         small.pitch,
                         static_cast<int>(blockDim.x),
                         static_cast<int>(threadIdx.x)};
  int which = 0;
  int64_t number = blockIdx.x;
  for (; number >= small.batches[which].count; ++which) number -= small.batches[which].count;
  const SmallBatch& batch = small.batches[which];
  const SmallShape& shape = small.shape;
  const int size = small.tall * small.narrow;
  if (batch.given != nullptr) {
    const Real* const given = static_cast<const Real*>(batch.given) + number * size;
    for (int at = worker.thread; at < size; at += worker.threads)
      matrix[worker.place(shape, at)] = given[at];
  } else {
    worker.draw(shape, batch.key, batch.first + static_cast<uint64_t>(number * size));
  }
#pragma unroll 1
  for (int k = (small.narrow - 1) / kBlock * kBlock; k >= 0; k -= kBlock) {
    const int left = small.narrow - k, width = left < kBlock ? left : kBlock;
    __syncthreads();  // what is drawn, or the last block's panel, is done with
    worker.load_panel(k, width);
    if (worker.thread == 0)
      make_reflection_block(state.block, worker.panel, state.dot, width, shape.gain);
    __syncthreads();
    worker.write_own(k, width);
    worker.reflect_right(k);
  }
  __syncthreads();
  Real* const out = static_cast<Real*>(batch.out) + number * batch.step;
  for (int at = worker.thread; at < size; at += worker.threads)
    out[at] = matrix[worker.place(shape, at)];
}

cudaError_t shared_memory_limit(int& limit) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  return cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
}

// Lets a kernel have all the shared memory there is. Always all, not what a launch needs: another
// thread may come between its asking and its launch.
template <class Kernel>
cudaError_t allow_shared_memory(Kernel kernel) {
  int limit = 0;
  cudaFuncAttributes attributes{};
  cudaError_t error = shared_memory_limit(limit);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) return error;
  const int most = limit - static_cast<int>(attributes.sharedSizeBytes);
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

template <class L>
cudaError_t launch(const Small& small, int64_t matrices, int bytes, cudaStream_t stream) {
  const auto kernel = make_small<L>;
  if (bytes > kPlainSharedBytes) {
    const cudaError_t error = allow_shared_memory(kernel);
    if (error != cudaSuccess) return error;
  }
  FASTINIT_LAUNCH(kernel, static_cast<unsigned>(matrices), threads_for(small.shape), bytes, stream,
                  small);
  return cudaGetLastError();
}

}  // namespace

bool fits_block(const SmallShape& shape) {
  if (shape.narrow() > kSmallNarrow || shape.tall() > kSmallTall) return false;
  int limit = 0;
  if (shared_memory_limit(limit) != cudaSuccess) return false;
  Small small;
  return plan_memory(shape, small) + static_cast<int64_t>(sizeof(State<double>)) <= limit;
}

int make_orthogonal(const SmallShape& shape, const SmallBatch* batches, size_t count,
                    CUstream_st* stream) {
  Small small{};
  const int bytes = static_cast<int>(plan_memory(shape, small));
  for (size_t k = 0; k < count;) {
    int64_t matrices = 0;
    for (int n = 0; n < kBatches && k < count; ++n, ++k) {
      small.batches[n] = batches[k];
      matrices += batches[k].count;
    }
    if (matrices == 0) continue;
    const cudaError_t error = shape.dtype == DType::F64
                                  ? launch<ScalarF64>(small, matrices, bytes, stream)
                                  : launch<ScalarF32>(small, matrices, bytes, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace fastinit::cuda
