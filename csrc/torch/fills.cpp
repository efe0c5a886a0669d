// The fills, of one tensor and of many, whatever the device. A kernel checks its arguments,
// reserves its key, runs the tasks and bumps the version counter, in that order, so that a
// rejected, empty, fake or meta call consumes no randomness.
#include <algorithm>

#include "host/fp_env.h"
#include "torch/backend.h"
#include "torch/operators.h"
#include "torch/support.h"
#include "torch/tasks.h"

namespace fastinit::ops {
namespace {

// ---- running ------------------------------------------------------------------------------------

// Each kernel works under our floating-point environment from its checks on: whether an argument is
// accepted must not depend on the caller's rounding or on flushed subnormals either.
void fill_one(const at::Tensor& self, const Fill& fill, const Key& key,
              const Generator& generator) {
  const host::FpEnv env;
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

void fill_none(const at::Tensor& self, const Fill& fill, const Key& key,
               const Generator& generator) {
  const host::FpEnv env;
  check_one_source(fill.name, key, generator);
  check_fill(self, fill);
  bump_version(self);
}

template <On on>
void fill(const at::Tensor& self, const Fill& what, const Key& key, const Generator& generator) {
  (on == On::Device ? fill_one : fill_none)(self, what, key, generator);
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

// What one device has to do of a list.
struct DeviceTasks {
  at::Device device;
  std::vector<FillTask> tasks;
  std::vector<Span> spans;

  void run() {
    const Backend& backend = *backend_of(device);
    const size_t at_once = any_overlap(spans) ? 1 : tasks.size();
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

}  // namespace

// ---- the operators ------------------------------------------------------------------------------

template <On on>
void uniform_(const at::Tensor& self, double a, double b, Key key, Generator generator) {
  fill<on>(self, {"uniform_", Distribution::Uniform, {a, b, 0, 0}}, key, generator);
}

template <On on>
void normal_(const at::Tensor& self, double mean, double std, Key key, Generator generator) {
  fill<on>(self, {"normal_", Distribution::Normal, {mean, std, 0, 0}}, key, generator);
}

template <On on>
void trunc_normal_(const at::Tensor& self, double mean, double std, double a, double b, Key key,
                   Generator generator) {
  fill<on>(self, {"trunc_normal_", Distribution::TruncNormal, {mean, std, a, b}}, key, generator);
}

template <On on>
void random_words_(const at::Tensor& self, Key key, Generator generator) {
  fill<on>(self, {"random_words_", Distribution::Words, {0, 0, 0, 0}}, key, generator);
}

void fill_many_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                at::IntArrayRef keys) {
  const host::FpEnv env;
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
  const host::FpEnv env;
  for_each_fill(tensors, plan, args, keys,
                [](const at::Tensor& t, const Fill& fill, uint64_t, Shard) {
                  TORCH_CHECK(t.is_meta(), "fill_many_: expects tensors of one device, but got ",
                              t.device(), " beside meta");
                  check_fill(t, fill);
                });
  for (const at::Tensor& t : tensors) bump_version(t);
}

void fill_many_nowhere_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                        at::IntArrayRef keys) {
  check_nowhere("fill_many_", tensors);
  for_each_fill(tensors, plan, args, keys, [](const at::Tensor&, const Fill&, uint64_t, Shard) {});
}

int64_t reserve_key(at::Device device, Generator generator) {
  const Backend* backend = backend_of(device);
  TORCH_CHECK_NOT_IMPLEMENTED(backend != nullptr,
                              "reserve_key: no generator of fastinit for device ", device);
  return static_cast<int64_t>(backend->reserve_key("reserve_key", device, generator));
}

#define FASTINIT_INSTANTIATE(on)                                                          \
  template void uniform_<on>(const at::Tensor&, double, double, Key, Generator);          \
  template void normal_<on>(const at::Tensor&, double, double, Key, Generator);           \
  template void trunc_normal_<on>(const at::Tensor&, double, double, double, double, Key, \
                                  Generator);                                             \
  template void random_words_<on>(const at::Tensor&, Key, Generator);
FASTINIT_INSTANTIATE(On::Device)
FASTINIT_INSTANTIATE(On::Meta)
#undef FASTINIT_INSTANTIATE

}  // namespace fastinit::ops
