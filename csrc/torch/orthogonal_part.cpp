#include "torch/orthogonal_part.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "torch/fills.h"
#include "torch/reflections.h"

namespace fastinit::ops {
namespace {

using at::IntArrayRef;
using at::Tensor;

// Elements of V drawn together, at least as many as S has.
constexpr int64_t kDrawnAtOnce = int64_t{1} << 22;

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

}  // namespace

OrthogonalParts::OrthogonalParts(const OrthogonalRequest& request, IntArrayRef size, int64_t number,
                                 int64_t key)
    : name_(request.name),
      options_(request.self.options().dtype(compute_type(request.self.scalar_type()))),
      size_(size),
      number_(number),
      key_(key),
      rows_(size[0]),
      cols_(c10::multiply_integers(size.slice(1))),
      gain_(request.gain),
      wide_(rows_ < cols_) {
  const int64_t m = std::max(rows_, cols_), n = std::min(rows_, cols_);
  const int64_t step = std::max(n, kDrawnAtOnce / n);
  Tensor s = at::zeros({n, n}, options_);
  Tensor squares = at::zeros({n}, options_.dtype(at::kDouble));
  for (int64_t begin = 0; begin < m; begin += step) {
    const Tensor x = trapezoid(begin, std::min(m, begin + step));
    s.addmm_(x.mH(), x);
    squares += at::abs(x).to(at::kDouble).square_().sum(0);
  }
  top_ = trapezoid(0, n).clone();
  const Tensor first = top_.diagonal(), x1 = first.clone();
  const Reflectors made = make_reflectors(first, squares.sqrt(), gain_);
  // What the new first elements change: V has them where the Gaussian has x1.
  s.addcmul_(top_.tril(-1).mH(), (first - x1).unsqueeze(0));
  inverted_ = s.triu_(1);
  inverted_.diagonal().copy_(made.half_square);
  diagonal_ = made.diagonal;
}

Tensor OrthogonalParts::draw(IntArrayRef size, IntArrayRef offset) const {
  std::vector<int64_t> full{number_ + 1}, at{number_}, drawn{1};
  full.insert(full.end(), size_.begin(), size_.end());
  at.insert(at.end(), offset.begin(), offset.end());
  drawn.insert(drawn.end(), size.begin(), size.end());
  const Tensor box = at::empty(drawn, options_);
  fill_all(name_, {box}, {{Distribution::Normal, {0, 1}, {full, at}}}, {key_});
  return box.view({size[0], -1});
}

Tensor OrthogonalParts::trapezoid(int64_t begin, int64_t end) const {
  const int64_t n = std::min(rows_, cols_), full[] = {number_ + 1, rows_, cols_};
  const int64_t offset[] = {number_, wide_ ? 0 : begin, wide_ ? begin : 0};
  const Tensor box =
      wide_ ? at::empty({1, n, end - begin}, options_) : at::empty({1, end - begin, n}, options_);
  fill_all(name_, {box}, {{Distribution::Normal, {0, 1}, {full, offset}}}, {key_});
  const Tensor x = wide_ ? box[0].t() : box[0];
  return begin < n ? x.tril_(begin) : x;
}

void OrthogonalParts::write(const Tensor& part, IntArrayRef offset) const {
  const int64_t n = std::min(rows_, cols_);
  const IntArrayRef size = part.sizes();
  const Tensor own_rows = at::arange(offset[0], offset[0] + size[0], options_.dtype(at::kLong));
  const Tensor own_cols = numbers_of(size_.slice(1), size.slice(1), offset.slice(1), options_);
  const Tensor& along = wide_ ? own_cols : own_rows;   // numbers on the longer side
  const Tensor& across = wide_ ? own_rows : own_cols;  // and on the narrower one
  // The part's rows of V: all of the narrower side of them.
  std::vector<int64_t> drawn(size_.begin(), size_.end()), from(size_.size(), 0);
  for (size_t k = wide_ ? 1 : 0; k < (wide_ ? drawn.size() : 1); ++k) {
    drawn[k] = size[k];
    from[k] = offset[k];
  }
  Tensor v = draw(drawn, from);
  if (wide_) v = v.t();
  const Tensor narrow = at::arange(n, along.options());
  v.masked_fill_(along.unsqueeze(1).lt(narrow), 0);
  v = at::where(along.unsqueeze(1).eq(narrow), top_.diagonal().unsqueeze(0), v);

  const Tensor w = at::linalg_solve_triangular(inverted_, v, /*upper=*/true, /*left=*/false);
  Tensor q = at::mm(w, top_.index_select(0, across).mH()).neg_();
  q.add_(along.unsqueeze(1).eq(across).to(q.scalar_type()));
  q.mul_(diagonal_.index_select(0, across).unsqueeze(0));
  write_orthogonal(part, (wide_ ? q.t() : q).reshape(size), gain_);
}

}  // namespace fastinit::ops
