// Shapes and inputs of small orthogonal matrices, for the drivers that compare kernels, and the
// scalar kernel's results, which they are compared with.
#pragma once

#include <cmath>
#include <vector>

#include "cases.h"
#include "cpu/orthogonal.h"

namespace native {

// One of `workers` at a time, all of it by the calling thread.
inline cpu::ThreadPool one_thread() {
  return {1, [](int, void (*body)(void*), void* context) { body(context); }};
}

inline std::vector<SmallShape> small_shapes() {
  std::vector<SmallShape> shapes;
  const int64_t sizes[][2] = {{1, 1},    {1, 6},    {6, 1},     {2, 2},   {2, 3},
                              {3, 2},    {3, 3},    {4, 4},     {5, 4},   {5, 5},
                              {7, 8},    {13, 9},   {17, 33},   {33, 17}, {64, 64},
                              {40, 127}, {127, 65}, {128, 128}, {300, 9}, {9, 700}};
  for (const auto& size : sizes)
    for (const DType dtype : {DType::F32, DType::F64})
      if (size[0] * size[1] * item_size(dtype) <= 128 * 1024)
        shapes.push_back({dtype, size[0], size[1], size[0] % 2 == 0 ? 1.0 : -1.5});
  return shapes;
}

// Makes `count` matrices with the capability at that place in the list.
template <class Real>
std::vector<Real> made_by(int capability, const SmallShape& shape, uint64_t key, uint64_t first,
                          int64_t count, const Real* given = nullptr) {
  std::vector<Real> out(static_cast<size_t>(count * shape.size()), Real(7));
  const SmallBatch batch{key, first, given, out.data(), shape.size(), count};
  forced = capability;
  cpu::make_orthogonal(shape, &batch, 1, one_thread());
  forced = 0;
  return out;
}

// The Gaussians of those matrices.
template <class Real>
std::vector<Real> gaussian_of(const SmallShape& shape, uint64_t key, uint64_t first,
                              int64_t count) {
  std::vector<Real> out(static_cast<size_t>(count * shape.size()));
  const double args[4] = {0, 1, 0, 0};
  FillTask task =
      bare_task(host::prepare_transform(Distribution::Normal, shape.dtype, args), Purpose::Value);
  task.key = key;
  cpu::scalar::generate_run(task, {first, count * shape.size(), 1, 0, 0},
                            reinterpret_cast<char*>(out.data()));
  return out;
}

// The largest difference; not a number if there is one.
template <class Real>
double distance(const std::vector<Real>& a, const std::vector<Real>& b) {
  double most = 0;
  for (size_t k = 0; k < a.size(); ++k) {
    const double d = std::fabs(static_cast<double>(a[k]) - static_cast<double>(b[k]));
    if (!(d <= most)) most = d;
  }
  return most;
}

}  // namespace native
