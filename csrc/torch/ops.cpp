// The operators: schemas, the kernels of every device, and the backend of the CPU. A kernel checks
// its arguments, reserves its key, runs the tasks and bumps the version counter, in that order, so
// that a rejected, empty, fake or meta call consumes no randomness.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/enum_tag.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <numeric>

#include "cpu/executor.h"
#include "cpu/fp_env.h"
#include "cpu/orthogonal.h"
#include "torch/backend.h"
#include "torch/introspection.h"
#include "torch/support.h"
#include "torch/tasks.h"

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

const RegisterBackend the_cpu(at::kCPU, {reserve_cpu_key, execute_on_cpu, cpu::is_small,
                                         make_orthogonal_on_cpu});

int64_t reserve_key(at::Device device, std::optional<at::Generator> generator) {
  const Backend* backend = backend_of(device);
  TORCH_CHECK_NOT_IMPLEMENTED(backend != nullptr,
                              "reserve_key: no generator of fastinit for device ", device);
  return static_cast<int64_t>(backend->reserve_key("reserve_key", device, generator));
}

// ---- running ------------------------------------------------------------------------------------

// Each kernel works under our floating-point environment from its checks on: whether an argument is
// accepted must not depend on the caller's rounding or on flushed subnormals either.
void fill_one(const at::Tensor& self, const Fill& fill, const std::optional<int64_t>& key,
              const std::optional<at::Generator>& generator) {
  const cpu::FpEnv env;
  check_one_source(fill.name, key, generator);
  check_fill(self, fill);
  std::vector<FillTask> tasks;
  append_tasks(tasks, self, fill, 0);
  if (!tasks.empty()) {
    const Backend& backend = *backend_of(self.device());
    const uint64_t k = key.has_value() ? static_cast<uint64_t>(*key)
                                       : backend.reserve_key(fill.name, self.device(), generator);
    for (FillTask& task : tasks) task.key = k;
    backend.execute(fill.name, self.device(), tasks.data(), tasks.size());
  }
  bump_version(self);
}

void fill_none(const at::Tensor& self, const Fill& fill, const std::optional<int64_t>& key,
               const std::optional<at::Generator>& generator) {
  const cpu::FpEnv env;
  check_one_source(fill.name, key, generator);
  check_fill(self, fill);
  bump_version(self);
}

// ---- one tensor ---------------------------------------------------------------------------------

using FillFn = void (*)(const at::Tensor&, const Fill&, const std::optional<int64_t>&,
                        const std::optional<at::Generator>&);

template <FillFn fill>
void uniform_(const at::Tensor& self, double a, double b, std::optional<int64_t> key,
              std::optional<at::Generator> generator) {
  fill(self, {"uniform_", Distribution::Uniform, {a, b, 0, 0}}, key, generator);
}

template <FillFn fill>
void normal_(const at::Tensor& self, double mean, double std, std::optional<int64_t> key,
             std::optional<at::Generator> generator) {
  fill(self, {"normal_", Distribution::Normal, {mean, std, 0, 0}}, key, generator);
}

template <FillFn fill>
void trunc_normal_(const at::Tensor& self, double mean, double std, double a, double b,
                   std::optional<int64_t> key, std::optional<at::Generator> generator) {
  fill(self, {"trunc_normal_", Distribution::TruncNormal, {mean, std, a, b}}, key, generator);
}

template <FillFn fill>
void random_words_(const at::Tensor& self, std::optional<int64_t> key,
                   std::optional<at::Generator> generator) {
  fill(self, {"random_words_", Distribution::Words, {0, 0, 0, 0}}, key, generator);
}

// ---- many tensors -------------------------------------------------------------------------------

// Calls visit(tensor, fill, key, shard) for every tensor of the list, after checking the plan's
// form.
template <class Visit>
void for_each_fill(const at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                   at::IntArrayRef keys, Visit visit) {
  const size_t n = tensors.size();
  TORCH_CHECK(args.size() == 4 * n, "fill_many_: expects four 'args' per tensor, ", 4 * n,
              " in all, but got ", args.size());
  TORCH_CHECK(keys.size() == n, "fill_many_: expects one of 'keys' per tensor, ", n,
              " in all, but got ", keys.size());
  size_t at = 0;
  for (size_t k = 0; k < n; ++k) {
    TORCH_CHECK(at + 2 <= plan.size(), "fill_many_: 'plan' ends before tensor ", k);
    const int64_t code = plan[at], nd = plan[at + 1];
    TORCH_CHECK(code >= 0 && code <= 4, "fill_many_: 'plan' names distribution ", code,
                " for tensor ", k, "; known are 0 to 4");
    TORCH_CHECK(nd == 0 || nd == tensors[k].dim(), "fill_many_: 'plan' describes a shard of ", nd,
                " dimensions for tensor ", k, ", which has ", tensors[k].dim());
    TORCH_CHECK(at + 2 + 2 * static_cast<size_t>(nd) <= plan.size(),
                "fill_many_: 'plan' ends before tensor ", k);
    const Shard shard{plan.slice(at + 2, nd), plan.slice(at + 2 + nd, nd)};
    at += 2 + 2 * static_cast<size_t>(nd);
    const Fill fill{"fill_many_",
                    static_cast<Distribution>(code),
                    {args[4 * k], args[4 * k + 1], args[4 * k + 2], args[4 * k + 3]}};
    visit(tensors[k], fill, static_cast<uint64_t>(keys[k]), shard);
  }
  TORCH_CHECK(at == plan.size(), "fill_many_: 'plan' has ", plan.size() - at, " numbers too many");
}

void check_device(const at::Tensor& t) {
  TORCH_CHECK_NOT_IMPLEMENTED(backend_of(t.device()) != nullptr,
                              "fill_many_: not implemented for device ", t.device());
}

// Bytes that a tensor lies in.
struct Span {
  const char *begin, *end;
};

Span span_of(const at::Tensor& t) {
  int64_t last = 0;
  for (int64_t k = 0; k < t.dim(); ++k) last += (t.size(k) - 1) * t.stride(k);
  const char* begin = static_cast<const char*>(t.const_data_ptr());
  return {begin, begin + (last + 1) * t.element_size()};
}

// What one device has to do of a list.
struct DeviceTasks {
  at::Device device;
  std::vector<FillTask> tasks;
  std::vector<Span> spans;

  // Whether two of the tensors may share memory; then their order matters.
  bool any_overlap() {
    std::sort(spans.begin(), spans.end(),
              [](const Span& x, const Span& y) { return x.begin < y.begin; });
    for (size_t k = 1; k < spans.size(); ++k)
      if (spans[k].begin < spans[k - 1].end) return true;
    return false;
  }

  void run() {
    const Backend& backend = *backend_of(device);
    const size_t at_once = any_overlap() ? 1 : tasks.size();
    for (size_t k = 0; k < tasks.size(); k += at_once)
      backend.execute("fill_many_", device, tasks.data() + k, at_once);
  }
};

// A handful of devices: searched from the last one found.
DeviceTasks& tasks_of(std::vector<DeviceTasks>& groups, at::Device device, size_t expected) {
  for (auto group = groups.rbegin(); group != groups.rend(); ++group)
    if (group->device == device) return *group;
  groups.push_back({device, {}, {}});
  groups.back().tasks.reserve(expected);
  groups.back().spans.reserve(expected);
  return groups.back();
}

void fill_many_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                at::IntArrayRef keys) {
  const cpu::FpEnv env;
  std::vector<DeviceTasks> groups;
  for_each_fill(tensors, plan, args, keys,
                [&](const at::Tensor& t, const Fill& fill, uint64_t key, Shard shard) {
                  check_device(t);
                  check_fill(t, fill);
                  DeviceTasks& group = tasks_of(groups, t.device(), tensors.size());
                  append_tasks(group.tasks, t, fill, key, shard);
                  if (t.numel() > 0) group.spans.push_back(span_of(t));
                });
  // The CPU last: it computes while the devices that only take orders do.
  std::stable_partition(groups.begin(), groups.end(),
                        [](const DeviceTasks& group) { return !group.device.is_cpu(); });
  for (DeviceTasks& group : groups) group.run();
  for (const at::Tensor& t : tensors) bump_version(t);
}

void fill_many_meta_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                     at::IntArrayRef keys) {
  const cpu::FpEnv env;
  for_each_fill(tensors, plan, args, keys,
                [](const at::Tensor& t, const Fill& fill, uint64_t, Shard) {
                  TORCH_CHECK(t.is_meta(), "fill_many_: expects tensors of one device, but got ",
                              t.device(), " beside meta");
                  check_fill(t, fill);
                });
  for (const at::Tensor& t : tensors) bump_version(t);
}

// For lists the dispatcher finds no device in.
void fill_many_nowhere_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                        at::IntArrayRef keys) {
  for (const at::Tensor& t : tensors) check_device(t);
  for_each_fill(tensors, plan, args, keys, [](const at::Tensor&, const Fill&, uint64_t, Shard) {});
}

}  // namespace

const Backend* backend_of(at::Device device) {
  const Backend& backend = backends()[static_cast<size_t>(device.type())];
  return backend.execute != nullptr ? &backend : nullptr;
}

RegisterBackend::RegisterBackend(at::DeviceType type, Backend backend) {
  backends()[static_cast<size_t>(type)] = backend;
}

void implement(torch::Library& m) {
  m.impl("uniform_", uniform_<fill_one>);
  m.impl("normal_", normal_<fill_one>);
  m.impl("trunc_normal_", trunc_normal_<fill_one>);
  m.impl("random_words_", random_words_<fill_one>);
  m.impl("fill_many_", fill_many_);
}

int last_fill_threads() { return last_threads.load(); }

}  // namespace fastinit::ops

TORCH_LIBRARY(fastinit, m) {
  using fastinit::ops::reserve_key;
  const std::vector<at::Tag> tags{at::Tag::nondeterministic_seeded, at::Tag::pt2_compliant_tag};
  m.def(
      "uniform_(Tensor(a!) self, float a=0., float b=1., *, int? key=None, "
      "Generator? generator=None) -> ()",
      tags);
  m.def(
      "normal_(Tensor(a!) self, float mean=0., float std=1., *, int? key=None, "
      "Generator? generator=None) -> ()",
      tags);
  m.def(
      "trunc_normal_(Tensor(a!) self, float mean=0., float std=1., float a=-2., float b=2., *, "
      "int? key=None, Generator? generator=None) -> ()",
      tags);
  m.def("random_words_(Tensor(a!) self, *, int? key=None, Generator? generator=None) -> ()", tags);
  m.def("fill_many_(Tensor(a!)[] tensors, int[] plan, float[] args, int[] keys) -> ()",
        {at::Tag::pt2_compliant_tag});
  m.def("reserve_key(Device device, Generator? generator=None) -> int", reserve_key);
}

TORCH_LIBRARY_IMPL(fastinit, CPU, m) { fastinit::ops::implement(m); }

TORCH_LIBRARY_IMPL(fastinit, Meta, m) {
  using namespace fastinit::ops;
  m.impl("uniform_", uniform_<fill_none>);
  m.impl("normal_", normal_<fill_none>);
  m.impl("trunc_normal_", trunc_normal_<fill_none>);
  m.impl("random_words_", random_words_<fill_none>);
  m.impl("fill_many_", fill_many_meta_);
}

TORCH_LIBRARY_IMPL(fastinit, CompositeExplicitAutograd, m) {
  m.impl("fill_many_", fastinit::ops::fill_many_nowhere_);
}
