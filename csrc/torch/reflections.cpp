#include "torch/reflections.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sgn.h>
#include <ATen/ops/signbit.h>

#include <algorithm>

#include "core/reflector.h"
#include "torch/backend.h"

namespace fastinit::ops {
using at::Tensor;

Reflectors make_reflectors(const Tensor& first, const Tensor& length, double gain) {
  const bool single = first.scalar_type() == at::kFloat || first.scalar_type() == at::kComplexFloat;
  const auto wide_type = first.is_complex() ? at::kComplexDouble : at::kDouble;
  const Tensor x = first.to(wide_type, /*non_blocking=*/false, /*copy=*/true);
  const Tensor zero =
      length.ge(single ? Negligible<float>::length : Negligible<double>::length).logical_not_();
  Tensor phase;
  if (first.is_complex()) {
    phase = at::sgn(x);
    phase.masked_fill_(phase.eq(0), 1);
  } else {
    phase = at::signbit(x).to(at::kDouble).mul_(-2).add_(1);
  }
  phase.masked_fill_(zero, 1);
  first.copy_((x + phase * length).masked_fill_(zero, 1));
  const Tensor square = at::abs(first.to(wide_type)).square_() - at::abs(x).square_();
  const Tensor half = (length * length + square).mul_(0.5).masked_fill_(zero, 0.5);
  return {half, phase.mul_(-gain).to(first.scalar_type())};
}

at::Tensor column_lengths_by_norm(const at::Tensor& x) {
  const auto wide_type = x.is_complex() ? at::kComplexDouble : at::kDouble;
  return at::linalg_vector_norm(x, 2, {1}, false, wide_type);
}

int64_t panel_width(const Tensor& out, bool frugal) {
  const int64_t narrow = std::min(out.size(1), out.size(2));
  if (frugal && narrow < 960) return std::max<int64_t>(8, narrow / 10 / 8 * 8);
  const Backend& backend = *backend_of(out.device());
  const int64_t fraction = frugal ? 10 : backend.panel_fraction;
  const int64_t most = frugal ? 256 : backend.most_reflections;
  return std::clamp<int64_t>(narrow / fraction / 32 * 32, 96, most);
}

void householder(const Tensor& out, double gain, int64_t panel_width, const Draw& draw) {
  const bool wide = out.size(1) < out.size(2);
  const Tensor q = wide ? out.transpose(1, 2) : out;
  const int64_t count = q.size(0), m = q.size(1), n = q.size(2);
  const Tensor panels = at::empty({count * m * std::min(panel_width, n)}, q.options());
  const Tensor products = at::empty({count * n * std::min(panel_width, n)}, q.options());
  const auto view = [](const Tensor& memory, at::IntArrayRef size) {
    return memory.narrow(0, 0, c10::multiply_integers(size)).view(size);
  };
  for (int64_t k = (n - 1) / panel_width * panel_width; k >= 0; k -= panel_width) {
    const int64_t width = std::min(panel_width, n - k), right = n - k - width;
    const Tensor panel =
        wide ? view(panels, {count, width, m - k}) : view(panels, {count, m - k, width});
    draw(panel, k);
    const Tensor v = wide ? panel.transpose(1, 2) : panel;
    v.narrow(1, 0, width).tril_();
    const Tensor first = v.diagonal(0, 1, 2);
    const Reflectors scales =
        make_reflectors(first, backend_of(v.device())->column_lengths(v), gain);
    const Tensor top = v.narrow(1, 0, width), below = v.narrow(1, width, m - k - width);

    Tensor s = at::bmm(v.mH(), v).triu_(1);
    s.diagonal(0, 1, 2).copy_(scales.half_square);
    // V^H Q: the panel's own columns of Q are still columns of the (scaled) identity, and the
    // columns to their right still zero in the panel's rows.
    const Tensor y = view(products, {count, width, n - k});
    y.narrow(2, 0, width).copy_(top.mH()).mul_(scales.diagonal.unsqueeze(1));
    if (right > 0) {
      Tensor rest = y.narrow(2, width, right);
      at::bmm_out(rest, below.mH(),
                  q.narrow(1, k + width, m - k - width).narrow(2, k + width, right));
    }
    Tensor w = y;
    at::linalg_solve_triangular_out(w, s, y, /*upper=*/true);
    const Tensor corner = q.narrow(1, k, m - k).narrow(2, k, n - k);
    corner.narrow(1, 0, width).zero_();
    corner.narrow(2, 0, width).zero_();
    corner.baddbmm_(v, w, 1, -1);
    corner.diagonal(0, 1, 2).narrow(1, 0, width).add_(scales.diagonal);
  }
  // Rows above a panel's own keep the zeros that the panels before it write there.
}

void qr(const Tensor& out, double gain, const Draw& draw) {
  const bool wide = out.size(1) < out.size(2);
  const Tensor gaussian = at::empty(out.sizes(), out.options());
  draw(gaussian, 0);
  auto [q, r] = at::linalg_qr(wide ? gaussian.transpose(1, 2) : gaussian);
  Tensor phases = at::sgn(r.diagonal(0, 1, 2));
  phases.masked_fill_(phases.eq(0), 1);
  q.mul_(phases.mul_(gain).unsqueeze(1));
  out.copy_(wide ? q.transpose(1, 2) : q);
}

}  // namespace fastinit::ops
