// cuda_host orthogonal: csrc/cuda/orthogonal.cu over the shim against the CPU's scalar kernel.
#include <algorithm>

#include "cuda/orthogonal.h"
#include "cuda_shim.h"
#include "orthogonal_cases.h"

namespace native {
namespace {

int wrong = 0, matrices = 0;

void expect(bool good, const SmallShape& shape, const char* what, double distance) {
  if (good) return;
  ++wrong;
  std::printf("%s: %d x %d, type %d: %g\n", what, static_cast<int>(shape.rows),
              static_cast<int>(shape.cols), static_cast<int>(shape.dtype), distance);
}

template <class Real>
double tolerance() {
  return sizeof(Real) == 8 ? 1e-13 : 1e-5;
}

// Matrices a few elements apart, drawn and given, in a batch that begins inside a block of the
// stream.
template <class Real>
void compare(const SmallShape& shape) {
  // Few of the large ones, whose threads are many fibres.
  const int64_t gap = 5, count = shape.size() > 1000 ? 1 : 3;
  const uint64_t key = 0x1234567890abcdefu, first = (uint64_t{1} << 34) - 7;
  const int64_t step = shape.size() + gap;
  const auto want = made_by<Real>(0, shape, key, first, count);
  const auto gaussian = gaussian_of<Real>(shape, key, first, count);
  std::vector<Real> out(static_cast<size_t>(count * step), Real(7)), again = out;
  const SmallBatch drawn{key, first, nullptr, out.data(), step, count};
  const SmallBatch given{0, 0, gaussian.data(), again.data(), step, count};
  shim::launches = 0;
  const int errors = !cuda::fits_shared_memory(shape) +
                     cuda::make_orthogonal(shape, &drawn, 1, nullptr) +
                     cuda::make_orthogonal(shape, &given, 1, nullptr);
  expect(errors == 0 && shim::launches == 2, shape, "not one launch each", shim::launches);
  // The same Gaussians, bit for bit, give the same matrices.
  expect(std::memcmp(out.data(), again.data(), out.size() * sizeof(Real)) == 0, shape,
         "what is drawn is not the Gaussian", distance(out, again));
  for (int64_t b = 0; b < count; ++b) {
    const auto begin = out.begin() + b * step, end = begin + shape.size();
    const std::vector<Real> got(begin, end);
    const std::vector<Real> its_want(want.begin() + b * shape.size(),
                                     want.begin() + (b + 1) * shape.size());
    const double d = distance(got, its_want);
    expect(d <= tolerance<Real>(), shape, "differs from the CPU", d);
    expect(std::count(end, end + gap, Real(7)) == gap, shape, "wrote beyond a matrix", 0);
    ++matrices;
  }
}

// More batches than travel with a launch, of one to three matrices or none.
void compare_lists() {
  const SmallShape shape{DType::F32, 5, 3, 1.0};
  std::vector<std::vector<float>> outs(150);
  std::vector<SmallBatch> batches;
  for (uint64_t k = 0; k < outs.size(); ++k) {
    outs[k].assign(45, 7.0f);
    batches.push_back({k, 15 * k, nullptr, outs[k].data(), 15, static_cast<int64_t>(k % 4)});
  }
  shim::launches = 0;
  const int error = cuda::make_orthogonal(shape, batches.data(), batches.size(), nullptr);
  expect(error == 0 && shim::launches == 3, shape, "launches", shim::launches);
  for (uint64_t k = 0; k < outs.size(); ++k) {
    auto want = made_by<float>(0, shape, k, 15 * k, static_cast<int64_t>(k % 4));
    want.resize(45, 7.0f);
    expect(distance(outs[k], want) <= 1e-5, shape, "a list differs", distance(outs[k], want));
    matrices += static_cast<int>(k % 4);
  }
}

// Another thread makes smaller matrices between a kernel's asking for shared memory and its launch.
void check_two_threads() {
  const SmallShape shape{DType::F32, 128, 112, 1.0}, smaller{DType::F32, 120, 110, 1.0};
  std::vector<float> out(static_cast<size_t>(shape.size())), other(out);
  const SmallBatch batch{1, 0, nullptr, out.data(), shape.size(), 1};
  const SmallBatch of_other{2, 0, nullptr, other.data(), smaller.size(), 1};
  int error = 0;
  shim::launches = 0;
  shim::meanwhile = [&] { error = cuda::make_orthogonal(smaller, &of_other, 1, nullptr); };
  error += cuda::make_orthogonal(shape, &batch, 1, nullptr);
  expect(error == 0 && shim::launches == 2, shape, "two threads", shim::launches);
}

void check_limits() {
  const auto fits = [](int64_t rows, int64_t cols, DType dtype) {
    return cuda::fits_shared_memory({dtype, rows, cols, 1.0});
  };
  const SmallShape none{DType::F32, 0, 0, 1};
  expect(fits(128, 128, DType::F64) && fits(128, 400, DType::F32), none, "too small a limit", 0);
  expect(!fits(129, 129, DType::F32) && !fits(128, 500, DType::F32) && !fits(3, 40000, DType::F32),
         none, "too large a limit", 0);
  shim::shared_limit = 99 * 1024;
  expect(!fits(128, 128, DType::F64) && fits(128, 128, DType::F32), none, "limit of the device", 0);
  shim::shared_limit = 227 * 1024;
}

}  // namespace

int check_orthogonal() {
  for (const SmallShape& shape : small_shapes())
    shape.dtype == DType::F64 ? compare<double>(shape) : compare<float>(shape);
  compare_lists();
  check_two_threads();
  check_limits();
  std::printf("fills: %d\nwrong: %d\n", matrices, wrong);
  return wrong == 0 ? 0 : 1;
}

}  // namespace native
