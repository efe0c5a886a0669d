#include "cpu/orthogonal.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "cpu/dispatch.h"
#include "host/fp_env.h"
#include "host/prepare_transform.h"

namespace fastinit::cpu {
namespace {

// Beyond this, blocks of many reflections in matrix products win (docs/orthogonal.md).
constexpr int64_t kSmallNarrow = 128;
constexpr int64_t kSmallBytes = 256 * 1024;
// Fewer elements than this per thread and waking another costs more than it saves.
constexpr int64_t kElementsPerWorker = 4 * 1024;

struct Job {
  SmallShape shape;
  const SmallBatch* batches;
  std::vector<int64_t> begin;  // numbers of the batches' first matrices, and behind the last
  FillTask task;               // the Gaussian, but for its key
  std::atomic<int64_t> next{0};
};

// Row-major rows x cols -> element (r, c) at to + r step_r + c step_c. Tiles keep both sides
// cached.
template <class Real>
void move_matrix(const Real* from, int64_t pitch, int64_t rows, int64_t cols, Real* to,
                 int64_t step_r, int64_t step_c) {
  if (step_c == 1) {
    for (int64_t r = 0; r < rows; ++r)
      memcpy(to + r * step_r, from + r * pitch, static_cast<size_t>(cols) * sizeof(Real));
    return;
  }
  constexpr int64_t kTile = 8;
  for (int64_t r0 = 0; r0 < rows; r0 += kTile)
    for (int64_t c0 = 0; c0 < cols; c0 += kTile)
      for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r)
        for (int64_t c = c0; c < std::min(cols, c0 + kTile); ++c)
          to[r * step_r + c * step_c] = from[r * pitch + c];
}

template <class Real>
void work_in(Job& job, Reflect reflect) {
  const SmallShape& shape = job.shape;
  const int64_t tall = shape.tall(), narrow = shape.narrow(), size = tall * narrow;
  const bool wide = shape.rows < shape.cols;
  // An odd number of cache lines between rows, so that a column does not fall into one set.
  const int64_t line = 64 / static_cast<int64_t>(sizeof(Real));
  const int64_t pitch = ((narrow + kReflectPadding + line - 1) / line | 1) * line;
  const int64_t drawn_at = tall * pitch, panel_at = drawn_at + (size + line - 1) / line * line;
  const int64_t total = panel_at + 4 * std::max<int64_t>(tall, 4);
  const std::align_val_t alignment{64};
  const auto free = [&](Real* p) { ::operator delete[](p, alignment); };
  const std::unique_ptr<Real[], decltype(free)> scratch(
      static_cast<Real*>(::operator new[](static_cast<size_t>(total) * sizeof(Real), alignment)),
      free);
  Real* const matrix = scratch.get();
  std::fill(matrix, matrix + drawn_at, Real(0));  // the padding is computed with
  const Reflection reflection{matrix, matrix + panel_at, tall, narrow, pitch, shape.gain};
  const GenerateRun generate = capability().generate;
  FillTask task = job.task;
  for (;;) {
    const int64_t at = job.next.fetch_add(1, std::memory_order_relaxed);
    if (at >= job.begin.back()) return;
    const auto behind = std::upper_bound(job.begin.begin(), job.begin.end(), at);
    const SmallBatch& batch = job.batches[behind - job.begin.begin() - 1];
    const int64_t number = at - behind[-1];
    const Real* gaussian = static_cast<const Real*>(batch.given);
    if (gaussian != nullptr) {
      gaussian += number * size;
    } else {
      task.key = batch.key;
      const Run run{batch.first + static_cast<uint64_t>(number * size), size, 1, 0, 0};
      generate(task, run, reinterpret_cast<char*>(matrix + drawn_at));
      gaussian = matrix + drawn_at;
    }
    Real* const out = static_cast<Real*>(batch.out) + number * batch.step;
    if (wide) {
      move_matrix(gaussian, shape.cols, shape.rows, shape.cols, matrix, 1, pitch);
      reflect(reflection);
      move_matrix(matrix, pitch, tall, narrow, out, 1, shape.cols);
    } else {
      move_matrix(gaussian, shape.cols, shape.rows, shape.cols, matrix, pitch, 1);
      reflect(reflection);
      move_matrix(matrix, pitch, tall, narrow, out, shape.cols, 1);
    }
  }
}

void work(void* context) {
  Job& job = *static_cast<Job*>(context);
  const host::FpEnv env;
  if (job.shape.dtype == DType::F64)
    work_in<double>(job, capability().reflect64);
  else
    work_in<float>(job, capability().reflect32);
}

}  // namespace

bool is_small(const SmallShape& shape) {
  return shape.narrow() <= kSmallNarrow && shape.tall() <= kSmallBytes &&
         shape.size() * item_size(shape.dtype) <= kSmallBytes;
}

void add_squares(const Columns& x, int64_t first, int64_t last, double* squares) {
  const Capability& by = capability();
  if (x.row_stride == 1) {
    for (int64_t c = first; c < last; ++c)
      squares[c] += by.squares_of_run(x.data + c * x.col_stride, x.rows);
  } else {
    by.squares_of_rows(x.data + first, x.rows, x.row_stride, last - first, squares + first);
  }
}

void make_orthogonal(const SmallShape& shape, const SmallBatch* batches, size_t count,
                     const ThreadPool& pool) {
  Job job;
  job.shape = shape;
  job.batches = batches;
  job.begin.assign(1, 0);
  for (size_t k = 0; k < count; ++k) job.begin.push_back(job.begin.back() + batches[k].count);
  memset(&job.task, 0, sizeof job.task);
  const double args[4] = {0, 1, 0, 0};
  job.task.transform = host::prepare_transform(Kind::Normal, shape.dtype, args);
  job.task.purpose = Purpose::Value;
  const int64_t matrices = job.begin.back(), useful = matrices * shape.size() / kElementsPerWorker;
  const int64_t workers = std::max<int64_t>(1, std::min<int64_t>({pool.workers, useful, matrices}));
  if (workers == 1)
    work(&job);
  else
    pool.run(static_cast<int>(workers), work, &job);
}

}  // namespace fastinit::cpu
