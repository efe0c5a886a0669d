// driver orthogonal: the kernels for small matrices of every capability against the scalar one.
#include "orthogonal_cases.h"

namespace native {
namespace {

int compared = 0, wrong = 0;

template <class Real>
void compare(const SmallShape& shape) {
  constexpr int64_t kCount = 2;
  const uint64_t key = 99, first = 5;
  const auto want = made_by<Real>(0, shape, key, first, kCount);
  const auto gaussian = gaussian_of<Real>(shape, key, first, kCount);
  const double tolerance = sizeof(Real) == 8 ? 1e-13 : 1e-5;
  for (size_t k = 0; k < cpu::capabilities().size(); ++k) {
    const int number = static_cast<int>(k);
    const auto drawn = made_by<Real>(number, shape, key, first, kCount);
    const auto given = made_by<Real>(number, shape, 0, 0, kCount, gaussian.data());
    ++compared;
    if (distance(drawn, want) <= tolerance &&
        std::memcmp(drawn.data(), given.data(), drawn.size() * sizeof(Real)) == 0)
      continue;
    ++wrong;
    std::printf("%s: %d x %d, type %d: %g\n", cpu::capabilities()[k].name,
                static_cast<int>(shape.rows), static_cast<int>(shape.cols),
                static_cast<int>(shape.dtype), distance(drawn, want));
  }
}

}  // namespace

int check_orthogonal() {
  for (const SmallShape& shape : small_shapes())
    shape.dtype == DType::F64 ? compare<double>(shape) : compare<float>(shape);
  std::printf("matrices: %d\nwrong: %d\n", compared, wrong);
  return wrong == 0 ? 0 : 1;
}

}  // namespace native
