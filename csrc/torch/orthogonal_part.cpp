#include "torch/orthogonal_part.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/conj_physical.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/real.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <vector>

#include "torch/fills.h"
#include "torch/reflections.h"

namespace fastinit::ops {
namespace {

using at::IntArrayRef;
using at::Tensor;

// Elements of V drawn together, and rows, at least: products are slow in fewer.
constexpr int64_t kDrawnAtOnce = int64_t{1} << 22;
constexpr int64_t kRowsAtOnce = 256;

// Row-major numbers of a box's elements.
Tensor numbers_of(IntArrayRef full_size, IntArrayRef size, IntArrayRef offset,
                  const at::TensorOptions& options) {
  Tensor numbers = at::zeros({1}, options.dtype(at::kLong));
  for (size_t k = 0; k < size.size(); ++k) {
    const Tensor own = at::arange(offset[k], offset[k] + size[k], numbers.options());
    numbers = (numbers.unsqueeze(1) * full_size[k] + own).flatten();
  }
  return numbers;
}

Tensor as_double(const Tensor& t) { return (t.is_complex() ? at::real(t) : t).to(at::kDouble); }

}  // namespace

Tensor common_of(IntArrayRef size, const at::TensorOptions& options) {
  const int64_t rows = size[0], cols = c10::multiply_integers(size.slice(1));
  const int64_t n = std::min(rows, cols);
  return at::zeros({n + 2, n}, options);
}

OrthogonalParts::OrthogonalParts(const char* name, const Tensor& common, IntArrayRef size,
                                 int64_t number, int64_t key)
    : name_(name),
      size_(size),
      number_(number),
      key_(key),
      rows_(size[0]),
      cols_(c10::multiply_integers(size.slice(1))),
      longer_(std::max(rows_, cols_)),
      narrower_(std::min(rows_, cols_)),
      wide_(rows_ < cols_) {
  TORCH_CHECK_VALUE(common.sizes() == IntArrayRef({narrower_ + 2, narrower_}), name,
                    ": what parts of a matrix of size ", size, " have in common is of size ",
                    IntArrayRef({narrower_ + 2, narrower_}), ", but got ", common.sizes());
  s_ = common.narrow(0, 0, narrower_);
  diagonal_ = common.select(0, narrower_);
  scale_ = common.select(0, narrower_ + 1);
}

void OrthogonalParts::add(int64_t begin, int64_t end) const {
  const int64_t step = std::max(kRowsAtOnce, kDrawnAtOnce / narrower_);
  Tensor squares = as_double(diagonal_) + as_double(scale_);
  for (; begin < end; begin += step) {
    const Tensor x = trapezoid(begin, std::min(end, begin + step));
    s_.addmm_(x.mH(), x);
    squares += at::abs(x).to(at::kDouble).square_().sum(0);
  }
  diagonal_.copy_(squares);
  scale_.copy_(squares - as_double(diagonal_));
}

void OrthogonalParts::reflect(double gain) const {
  const int64_t step = std::max(kRowsAtOnce, kDrawnAtOnce / narrower_);
  const Tensor lengths = (as_double(diagonal_) + as_double(scale_)).sqrt_();
  Tensor half_squares = at::empty_like(lengths);
  for (int64_t begin = 0; begin < narrower_; begin += step) {
    const int64_t count = std::min(step, narrower_ - begin);
    const Tensor x = trapezoid(begin, begin + count);
    const Tensor x1 = x.diagonal(begin), first = x1.clone();
    const Reflectors made = make_reflectors(first, lengths.narrow(0, begin, count), gain);
    // What the new first elements change: V has them where the Gaussian has x1.
    // Conjugated at once: below a mode of torch's nobody resolves a lazy conjugate.
    const Tensor above = at::conj_physical(x.tril(begin - 1)).t();
    s_.narrow(1, begin, count).addcmul_(above, (first - x1).unsqueeze(0));
    diagonal_.narrow(0, begin, count).copy_(first);
    scale_.narrow(0, begin, count).copy_(made.diagonal);
    half_squares.narrow(0, begin, count).copy_(made.half_square);
  }
  s_.triu_(1);
  s_.diagonal().copy_(half_squares);
}

Tensor OrthogonalParts::trapezoid(int64_t begin, int64_t end) const {
  const int64_t n = narrower_, full[] = {number_ + 1, rows_, cols_};
  const int64_t offset[] = {number_, wide_ ? 0 : begin, wide_ ? begin : 0};
  const Tensor box = wide_ ? at::empty({1, n, end - begin}, s_.options())
                           : at::empty({1, end - begin, n}, s_.options());
  fill_all(name_, {box}, {{Distribution::Normal, {0, 1}, {full, offset}}}, {key_});
  const Tensor x = wide_ ? box[0].t() : box[0];
  return begin < n ? x.tril_(begin) : x;
}

Tensor OrthogonalParts::vectors(const Tensor& gaussian, const Tensor& numbers) const {
  const Tensor row = numbers.unsqueeze(1), column = at::arange(narrower_, numbers.options());
  gaussian.masked_fill_(row.lt(column), 0);
  return at::where(row.eq(column), diagonal_.unsqueeze(0), gaussian);
}

Tensor OrthogonalParts::vectors_of(IntArrayRef size, IntArrayRef offset,
                                   const Tensor& numbers) const {
  std::vector<int64_t> full{number_ + 1}, at{number_}, drawn{1};
  full.insert(full.end(), size_.begin(), size_.end());
  for (size_t k = 0; k < size_.size(); ++k) {
    const bool held = wide_ == (k > 0);  // the whole of the narrower side
    at.push_back(held ? offset[k] : 0);
    drawn.push_back(held ? size[k] : size_[k]);
  }
  const Tensor box = at::empty(drawn, s_.options());
  fill_all(name_, {box}, {{Distribution::Normal, {0, 1}, {full, at}}}, {key_});
  const Tensor v = box.view({drawn[1], -1});
  return vectors(wide_ ? v.t() : v, numbers);
}

Tensor OrthogonalParts::first_vectors(const Tensor& numbers) const {
  const Tensor listed = numbers.cpu();
  const auto* const row = listed.const_data_ptr<int64_t>();
  const int64_t count = listed.numel(), full[] = {number_ + 1, rows_, cols_};
  const Tensor drawn = at::empty({count, narrower_}, s_.options());
  std::vector<Tensor> runs;
  std::vector<std::array<int64_t, 3>> offsets;
  for (int64_t k = 0; k < count;) {
    int64_t length = 1;
    while (k + length < count && row[k + length] == row[k] + length) ++length;
    const Tensor run = drawn.narrow(0, k, length);
    runs.push_back((wide_ ? run.t() : run).unsqueeze(0));
    offsets.push_back({number_, wide_ ? 0 : row[k], wide_ ? row[k] : 0});
    k += length;
  }
  std::vector<Fill> fills;
  for (const auto& offset : offsets)
    fills.push_back({Distribution::Normal, {0, 1}, {full, offset}});
  fill_all(name_, runs, fills, std::vector<int64_t>(runs.size(), key_));
  return vectors(drawn, numbers);
}

void OrthogonalParts::write(const Tensor& part, IntArrayRef offset, double gain) const {
  const IntArrayRef size = part.sizes();
  const Tensor across = numbers_along(size, offset, false);
  Tensor solved;
  if (across.numel() * across.numel() < part.numel())
    solved =
        at::linalg_solve_triangular(s_, first_vectors(across).mH(), /*upper=*/true, /*left=*/true);
  write(part, offset.vec(), across, solved, gain);
}

Tensor OrthogonalParts::numbers_along(IntArrayRef size, IntArrayRef offset, bool longer) const {
  return longer == wide_
             ? numbers_of(size_.slice(1), size.slice(1), offset.slice(1), s_.options())
             : numbers_of(size_.slice(0, 1), size.slice(0, 1), offset.slice(0, 1), s_.options());
}

void OrthogonalParts::write(const Tensor& part, std::vector<int64_t> offset, const Tensor& across,
                            const Tensor& solved, double gain) const {
  const int64_t count = part.numel() / across.numel();
  if (count > std::max(kRowsAtOnce, kDrawnAtOnce / narrower_)) {
    size_t dim = 0;
    for (size_t k = 1; wide_ && k < offset.size(); ++k)
      if (dim == 0 || part.size(static_cast<int64_t>(k)) > part.size(static_cast<int64_t>(dim)))
        dim = k;
    const auto d = static_cast<int64_t>(dim);
    const int64_t half = part.size(d) / 2;
    write(part.narrow(d, 0, half), offset, across, solved, gain);
    offset[dim] += half;
    return write(part.narrow(d, half, part.size(d) - half), offset, across, solved, gain);
  }
  const Tensor along = numbers_along(part.sizes(), offset, true);
  const Tensor v = vectors_of(part.sizes(), offset, along);
  Tensor q;
  if (solved.defined()) {
    q = at::mm(v, solved).neg_();
  } else {
    const Tensor w = at::linalg_solve_triangular(s_, v, /*upper=*/true, /*left=*/false);
    q = at::empty({count, across.numel()}, s_.options());
    const int64_t step = std::max(kRowsAtOnce, kDrawnAtOnce / narrower_);
    for (int64_t begin = 0; begin < across.numel(); begin += step) {
      const Tensor some = across.narrow(0, begin, std::min(step, across.numel() - begin));
      Tensor columns = q.narrow(1, begin, some.numel());
      at::mm_out(columns, w, first_vectors(some).mH());
    }
    q.neg_();
  }
  q.add_(along.unsqueeze(1).eq(across).to(q.scalar_type()));
  q.mul_(scale_.index_select(0, across).unsqueeze(0));
  write_orthogonal(part, (wide_ ? q.t() : q).reshape(part.sizes()), gain);
}

}  // namespace fastinit::ops
