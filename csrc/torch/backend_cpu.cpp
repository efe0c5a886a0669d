// The backend of the CPU, and the table of all backends.
#include <ATen/CPUGeneratorImpl.h>

#include <array>
#include <atomic>

#include "cpu/executor.h"
#include "cpu/orthogonal.h"
#include "torch/backend.h"
#include "torch/introspection.h"
#include "torch/thread_pool.h"

namespace fastinit::ops {
namespace {

std::atomic<int> last_threads{0};

// ---- the CPU ------------------------------------------------------------------------------------

uint64_t reserve_cpu_key(const char*, at::Device, const std::optional<at::Generator>& generator) {
  auto* impl = at::get_generator_or_default<at::CPUGeneratorImpl>(
      generator, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(impl->mutex_);
  return derive(0, impl->random64(), Purpose::GeneratorCpu);
}

void execute_on_cpu(const char*, at::Device, const FillTask* tasks, size_t count) {
  if (count == 0) return;
  const cpu::ThreadPool pool = torch_pool();
  last_threads = cpu::execute(tasks, count, pool);
}

void make_orthogonal_on_cpu(const char*, at::Device, const SmallShape& shape,
                            const SmallBatch* batches, size_t count) {
  cpu::make_orthogonal(shape, batches, count, torch_pool());
}

// ---- backends -----------------------------------------------------------------------------------

// By device type; those not built in are empty. A function, as other files register from their
// initialisers.
std::array<Backend, at::COMPILE_TIME_MAX_DEVICE_TYPES>& backends() {
  static std::array<Backend, at::COMPILE_TIME_MAX_DEVICE_TYPES> table{};
  return table;
}

const RegisterBackend the_cpu(at::kCPU, {reserve_cpu_key, execute_on_cpu, true, cpu::is_small,
                                         make_orthogonal_on_cpu});

}  // namespace

const Backend* backend_of(at::Device device) {
  const Backend& backend = backends()[static_cast<size_t>(device.type())];
  return backend.execute != nullptr ? &backend : nullptr;
}

RegisterBackend::RegisterBackend(at::DeviceType type, Backend backend) {
  backends()[static_cast<size_t>(type)] = backend;
}

int last_fill_threads() { return last_threads.load(); }

}  // namespace fastinit::ops
