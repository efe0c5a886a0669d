// Small orthogonal matrices, a thread block per matrix: it draws, reflects and writes one, in
// shared memory. The method is that of csrc/cpu/orthogonal_kernel.inl: reflections from the last to
// the first, a few at a time; the columns to the right already hold Q, those to the left still the
// Gaussian.
#include "cuda/orthogonal.h"

#include "core/lanes_scalar.h"
#include "core/reflector.h"
#include "core/transforms.h"
#include "cuda/macros.h"

namespace fastinit::cuda {
namespace {

// Beyond this, blocks of many reflections in matrix products have more multiprocessors to use.
constexpr int64_t kSmallNarrow = 128, kSmallTall = 32768;
constexpr int kMaxThreads = 256;
// Reflections that are made at once: the width of the panel that holds their vectors.
constexpr int kPanelWidth = kReflections, kPairs = kPanelWidth * (kPanelWidth + 1) / 2;
// Threads that share a column, at most: every one of them adds up the others' sums.
constexpr int kThreadsPerColumn = 8;
// Batches of a launch, which travel as kernel parameters: so it can be captured in a graph.
constexpr int kBatches = 64;
constexpr int kPlainSharedBytes = 48 * 1024;  // what needs no asking

struct SmallMatrixParams {
  SmallShape shape;
  int tall, narrow, pitch;
  int panel_at, sums_at;  // elements into shared memory
  SmallBatch batches[kBatches];
};
static_assert(sizeof(SmallMatrixParams) <= 4096, "kernel parameters are limited");

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

int threads_for(const SmallShape& shape) {
  return shape.size() <= 1024 ? 64 : shape.size() <= 4096 ? 128 : kMaxThreads;
}

// The matrix by rows of an odd number of elements, so that rows and columns both spread over the
// banks; the panel; the sums of threads that share a column. Bytes of it all.
int64_t lay_out_shared_memory(const SmallShape& shape, SmallMatrixParams& params) {
  const int64_t tall = shape.tall(), narrow = shape.narrow(), pitch = narrow | 1;
  const int64_t panel_at = round_up(tall * pitch, kPanelWidth);
  const int64_t sums_at = panel_at + kPanelWidth * (tall > kPanelWidth ? tall : kPanelWidth);
  const int64_t most = narrow > threads_for(shape) ? narrow : threads_for(shape);
  params.shape = shape;
  params.tall = static_cast<int>(tall);
  params.narrow = static_cast<int>(narrow);
  params.pitch = static_cast<int>(pitch);
  params.panel_at = static_cast<int>(panel_at);
  params.sums_at = static_cast<int>(sums_at);
  return (sums_at + kPanelWidth * most) * item_size(shape.dtype);
}

template <class Real>
struct alignas(kPanelWidth * sizeof(Real)) PanelRow {
  Real v[kPanelWidth];
};

// What the threads share beside matrix, panel and sums.
template <class Real>
struct SharedState {
  ReflectionBlock<Real> reflections;
  double dot[kPanelWidth][kPanelWidth];
};

// A thread block's matrix in shared memory, as one of its threads sees it.
template <class L>
struct BlockMatrix {
  using Real = typename L::Real;
  Real* const matrix;
  Real* const panel;
  Real* const sums;
  SharedState<Real>& state;
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
    for (int i = thread; i < height || i < kPanelWidth; i += threads) {
      PanelRow<Real> row;
#pragma unroll
      for (int s = 0; s < kPanelWidth; ++s)
        row.v[s] = i < height && s < width && s <= i ? matrix[(k + i) * pitch + k + s] : Real(0);
      rows()[i] = row;
    }
    __syncthreads();
    // Several threads a product, then one.
    double* const parts = reinterpret_cast<double*>(sums);
    const int sharing = threads / kPairs, pair = thread / sharing;
    int s = 0, t = pair;  // of the pairs s <= t in order
    for (; s < kPanelWidth && t >= kPanelWidth - s; ++s) t -= kPanelWidth - s;
    t += s;
    if (pair < kPairs) {
      double sum = 0;
      for (int i = thread - pair * sharing; i < height; i += sharing)
        sum += static_cast<double>(panel[i * kPanelWidth + s]) * panel[i * kPanelWidth + t];
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

  FASTINIT_DEVICE PanelRow<Real>* rows() const { return reinterpret_cast<PanelRow<Real>*>(panel); }

  // The panel's own columns, which the reflections before it left as columns of the identity.
  FASTINIT_DEVICE void write_own(int k, int width) const {
    const ReflectionBlock<Real>& reflections = state.reflections;
    for (int i = thread; i < tall - k; i += threads) {
      const PanelRow<Real> row = rows()[i];
#pragma unroll
      for (int t = 0; t < kPanelWidth; ++t) {
        Real sum = i == t ? reflections.diagonal[t] : Real(0);
#pragma unroll
        for (int s = 0; s < kPanelWidth; ++s)
          sum = L::negative_fma(row.v[s], reflections.own[s][t], sum);
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

  // What is to the right of the panel, whose first kPanelWidth rows are still zero (and not there).
  FASTINIT_DEVICE void reflect_right(int k) const {
    const int right = narrow - k - kPanelWidth, height = tall - k;
    const int fit = right > 0 ? threads / right : 0;
    const int sharing = fit < 1 ? 1 : fit < kThreadsPerColumn ? fit : kThreadsPerColumn;
    Real* const first = matrix + k * pitch + k + kPanelWidth;
    each_column(right, sharing, [&](int c, int part) {
      Real sum[kPanelWidth] = {};
      for (int i = kPanelWidth + part; i < height; i += sharing) {
        const PanelRow<Real> row = rows()[i];
        const Real q = first[i * pitch + c];
#pragma unroll
        for (int s = 0; s < kPanelWidth; ++s) sum[s] = L::fma(row.v[s], q, sum[s]);
      }
#pragma unroll
      for (int s = 0; s < kPanelWidth; ++s) sums[(part * kPanelWidth + s) * right + c] = sum[s];
    });
    __syncthreads();
    each_column(right, sharing, [&](int c, int part) {
      Real sum[kPanelWidth] = {}, w[kPanelWidth];
      for (int other = 0; other < sharing; ++other) {
#pragma unroll
        for (int s = 0; s < kPanelWidth; ++s)
          sum[s] = L::add(sum[s], sums[(other * kPanelWidth + s) * right + c]);
      }
#pragma unroll
      for (int s = 0; s < kPanelWidth; ++s) {
        w[s] = L::mul(state.reflections.inverse[s][s], sum[s]);
#pragma unroll
        for (int t = s + 1; t < kPanelWidth; ++t)
          w[s] = L::fma(state.reflections.inverse[s][t], sum[t], w[s]);
      }
      for (int i = part; i < height; i += sharing) {
        const PanelRow<Real> row = rows()[i];
        Real q = i < kPanelWidth ? Real(0) : first[i * pitch + c];
#pragma unroll
        for (int s = 0; s < kPanelWidth; ++s) q = L::negative_fma(row.v[s], w[s], q);
        first[i * pitch + c] = q;
      }
    });
  }
};

template <class L>
__global__ void __launch_bounds__(kMaxThreads)
    block_per_matrix(const __grid_constant__ SmallMatrixParams params) {
  using Real = typename L::Real;
  FASTINIT_SHARED_MEMORY(memory);
  __shared__ SharedState<Real> state;
  Real* const matrix = reinterpret_cast<Real*>(memory);
  const BlockMatrix<L> block{matrix,
                             matrix + params.panel_at,
                             matrix + params.sums_at,
                             state,
                             params.tall,
                             params.narrow,
                             params.pitch,
                             static_cast<int>(blockDim.x),
                             static_cast<int>(threadIdx.x)};
  int which = 0;
  int64_t number = blockIdx.x;
  for (; number >= params.batches[which].count; ++which) number -= params.batches[which].count;
  const SmallBatch& batch = params.batches[which];
  const SmallShape& shape = params.shape;
  const int size = params.tall * params.narrow;
  if (batch.given != nullptr) {
    const Real* const given = static_cast<const Real*>(batch.given) + number * size;
    for (int at = block.thread; at < size; at += block.threads)
      matrix[block.place(shape, at)] = given[at];
  } else {
    block.draw(shape, batch.key, batch.first + static_cast<uint64_t>(number * size));
  }
#pragma unroll 1
  for (int k = (params.narrow - 1) / kPanelWidth * kPanelWidth; k >= 0; k -= kPanelWidth) {
    const int left = params.narrow - k, width = left < kPanelWidth ? left : kPanelWidth;
    __syncthreads();  // what is drawn, or the last panel, is done with
    block.load_panel(k, width);
    if (block.thread == 0)
      make_reflection_block(state.reflections, block.panel, state.dot, width, shape.gain);
    __syncthreads();
    block.write_own(k, width);
    block.reflect_right(k);
  }
  __syncthreads();
  Real* const out = static_cast<Real*>(batch.out) + number * batch.step;
  for (int at = block.thread; at < size; at += block.threads)
    out[at] = matrix[block.place(shape, at)];
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
cudaError_t launch(const SmallMatrixParams& params, int64_t matrices, int bytes,
                   cudaStream_t stream) {
  const auto kernel = block_per_matrix<L>;
  if (bytes > kPlainSharedBytes) {
    const cudaError_t error = allow_shared_memory(kernel);
    if (error != cudaSuccess) return error;
  }
  FASTINIT_LAUNCH(kernel, static_cast<unsigned>(matrices), threads_for(params.shape), bytes, stream,
                  params);
  return cudaGetLastError();
}

}  // namespace

bool fits_shared_memory(const SmallShape& shape) {
  if (shape.narrow() > kSmallNarrow || shape.tall() > kSmallTall) return false;
  int limit = 0;
  if (shared_memory_limit(limit) != cudaSuccess) return false;
  SmallMatrixParams params;
  return lay_out_shared_memory(shape, params) + static_cast<int64_t>(sizeof(SharedState<double>)) <=
         limit;
}

int make_orthogonal(const SmallShape& shape, const SmallBatch* batches, size_t count,
                    CUstream_st* stream) {
  SmallMatrixParams params{};
  const int bytes = static_cast<int>(lay_out_shared_memory(shape, params));
  for (size_t k = 0; k < count;) {
    int64_t matrices = 0;
    for (int n = 0; n < kBatches && k < count; ++n, ++k) {
      params.batches[n] = batches[k];
      matrices += batches[k].count;
    }
    if (matrices == 0) continue;
    const cudaError_t error = shape.dtype == DType::F64
                                  ? launch<ScalarF64>(params, matrices, bytes, stream)
                                  : launch<ScalarF32>(params, matrices, bytes, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace fastinit::cuda
