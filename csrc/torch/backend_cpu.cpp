// The backend of the CPU, and the table of all backends.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <atomic>
#include <limits>

#include "cpu/executor.h"
#include "cpu/orthogonal.h"
#include "cpu/sparse.h"
#include "torch/backend.h"
#include "torch/testing.h"
#include "torch/thread_pool.h"

namespace fastinit::ops {
namespace {

std::atomic<int> last_threads{0};

// ---- the CPU ------------------------------------------------------------------------------------

uint64_t reserve_key(const char*, at::Device, const std::optional<at::Generator>& generator) {
  auto* impl = at::get_generator_or_default<at::CPUGeneratorImpl>(
      generator, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(impl->mutex_);
  return derive(0, impl->random64(), Purpose::GeneratorCpu);
}

void execute(const char*, at::Device, const FillTask* tasks, size_t count) {
  if (count == 0) return;
  const cpu::ThreadPool pool = torch_pool();
  last_threads = cpu::execute(tasks, count, pool);
}

void make_orthogonal(const char*, at::Device, const SmallShape& shape, const SmallBatch* batches,
                     size_t count) {
  cpu::make_orthogonal(shape, batches, count, torch_pool());
}

// In float not by ATen, which would convert all of x first. A complex row is a row of its parts; of
// a complex column the parts follow each other.
at::Tensor column_lengths(const at::Tensor& x) {
  const bool complex = x.scalar_type() == at::kComplexFloat;
  if (!complex && x.scalar_type() != at::kFloat) return column_lengths_by_norm(x);
  const int64_t parts = complex ? 2 : 1, width = x.size(2);
  const bool runs = x.stride(1) == 1;
  const int64_t sums = runs ? 1 : parts;
  const at::Tensor squares = at::zeros({x.size(0), width, sums}, x.options().dtype(at::kDouble));
  for (int64_t b = 0; b < x.size(0); ++b) {
    const auto* data = static_cast<const float*>(x.const_data_ptr()) + b * x.stride(0) * parts;
    const cpu::Columns columns{data, runs ? x.size(1) * parts : x.size(1),
                               runs ? 1 : x.stride(1) * parts, runs ? x.stride(2) * parts : 1};
    double* const to = squares.mutable_data_ptr<double>() + b * width * sums;
    at::parallel_for(0, width * sums, 1 + 65536 / x.size(1), [&](int64_t first, int64_t last) {
      cpu::add_squares(columns, first, last, to);
    });
  }
  return squares.sum(2).sqrt_();
}

void zero_smallest(const at::Tensor& self, const MatrixPlace& whole, int64_t count, uint64_t key) {
  cpu::zero_smallest(
      {static_cast<char*>(self.mutable_data_ptr()), self.size(0), self.size(1), self.stride(0),
       self.stride(1), static_cast<int>(self.element_size()), key, count, whole},
      torch_pool());
}

Backend cpu_backend() {
  Backend b;
  b.reserve_key = reserve_key;
  b.execute = execute;
  b.computes_at_once = true;
  b.makes_small = cpu::is_small;
  b.make_orthogonal = make_orthogonal;
  b.small_matrix_bytes = int64_t{64} << 20;
  b.matrix_bytes = int64_t{1} << 20;  // one product of this size already occupies every core
  b.panel_fraction = 10;
  b.most_reflections = 256;
  b.column_lengths = column_lengths;
  b.zero_smallest = zero_smallest;
  b.most_sparse_rows = std::numeric_limits<int64_t>::max();
  return b;
}

// ---- backends -----------------------------------------------------------------------------------

// By device type; those not built in are empty. A function: other files' initialisers register.
std::array<Backend, at::COMPILE_TIME_MAX_DEVICE_TYPES>& backends() {
  static std::array<Backend, at::COMPILE_TIME_MAX_DEVICE_TYPES> table{};
  return table;
}

const RegisterBackend registered(at::kCPU, cpu_backend());

}  // namespace

const Backend* backend_of(at::Device device) {
  const Backend& backend = backends()[static_cast<size_t>(device.type())];
  return backend.execute != nullptr ? &backend : nullptr;
}

RegisterBackend::RegisterBackend(at::DeviceType type, const Backend& backend) {
  backends()[static_cast<size_t>(type)] = backend;
}

int last_fill_threads() { return last_threads.load(); }

}  // namespace fastinit::ops
