#include "cpu/orthogonal.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "cpu/dispatch.h"
#include "host/prepare_transform.h"

namespace fastinit::cpu {
namespace {

// Beyond this, panels of many reflections in matrix products win (docs/orthogonal.md).
constexpr int64_t kSmallNarrow = 128;
constexpr int64_t kSmallBytes = 256 * 1024;
// Fewer elements than this per thread and waking another costs more than it saves.
constexpr int64_t kElementsPerWorker = 4 * 1024;

struct Job {
  SmallShape shape;
  const SmallBatch* batches;
  std::vector<int64_t> begin;  // numbers of the batches' first matrices, and behind the last
  FillTask task;               // the Gaussian, but for its key
};

// Row-major rows x cols -> element (r, c) at to + r step_r + c step_c. Tiles keep both cached.
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

// Draws, reflects and writes matrices, numbered over all batches, in scratch memory of its own.
template <class Real>
class Worker {
 public:
  explicit Worker(const Job& job)
      : job_(job),
        shape_(job.shape),
        pitch_(((shape_.narrow() + kReflectPadding + kLine - 1) / kLine | 1) * kLine),
        drawn_at_(shape_.tall() * pitch_),
        panel_at_(drawn_at_ + (shape_.size() + kLine - 1) / kLine * kLine),
        scratch_(allocate(panel_at_ + 4 * std::max<int64_t>(shape_.tall(), 4))),
        task_(job.task) {
    // The padding is computed with.
    std::fill(scratch_.get(), scratch_.get() + drawn_at_, Real(0));
  }

  void operator()(int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const auto behind = std::upper_bound(job_.begin.begin(), job_.begin.end(), at);
      const SmallBatch& batch = job_.batches[behind - job_.begin.begin() - 1];
      make(batch, at - behind[-1]);
    }
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  static constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(Real));  // of the cache
  struct Free {
    void operator()(Real* p) const { ::operator delete[](p, kAlignment); }
  };
  using Scratch = std::unique_ptr<Real[], Free>;

  static Scratch allocate(int64_t elements) {
    const size_t bytes = static_cast<size_t>(elements) * sizeof(Real);
    return Scratch(static_cast<Real*>(::operator new[](bytes, kAlignment)));
  }

  void make(const SmallBatch& batch, int64_t number) {
    const int64_t tall = shape_.tall(), narrow = shape_.narrow(), size = shape_.size();
    Real* const matrix = scratch_.get();
    const Reflection reflection{matrix, matrix + panel_at_, tall, narrow, pitch_, shape_.gain};
    const Reflect reflect = sizeof(Real) == 8 ? capability().reflect64 : capability().reflect32;
    const Real* gaussian = static_cast<const Real*>(batch.given);
    if (gaussian != nullptr) {
      gaussian += number * size;
    } else {
      task_.key = batch.key;
      const Run run{batch.first + static_cast<uint64_t>(number * size), size, 1, 0, 0};
      capability().generate(task_, run, reinterpret_cast<char*>(matrix + drawn_at_));
      gaussian = matrix + drawn_at_;
    }
    Real* const out = static_cast<Real*>(batch.out) + number * batch.step;
    if (shape_.rows < shape_.cols) {
      move_matrix(gaussian, shape_.cols, shape_.rows, shape_.cols, matrix, 1, pitch_);
      reflect(reflection);
      move_matrix(matrix, pitch_, tall, narrow, out, 1, shape_.cols);
    } else {
      move_matrix(gaussian, shape_.cols, shape_.rows, shape_.cols, matrix, pitch_, 1);
      reflect(reflection);
      move_matrix(matrix, pitch_, tall, narrow, out, shape_.cols, 1);
    }
  }

  const Job& job_;
  const SmallShape shape_;
  const int64_t pitch_;  // an odd number of cache lines: a column does not fall into one set
  const int64_t drawn_at_, panel_at_;
  const Scratch scratch_;
  FillTask task_;
};

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
  job.task.transform = host::prepare_transform(Distribution::Normal, shape.dtype, args);
  job.task.purpose = Purpose::Value;
  const int64_t matrices = job.begin.back();
  const Loop loop{matrices, matrices * shape.size() / kElementsPerWorker};
  if (shape.dtype == DType::F64)
    parallel_for<Worker<double>>(pool, loop, job);
  else
    parallel_for<Worker<float>>(pool, loop, job);
}

}  // namespace fastinit::cpu
