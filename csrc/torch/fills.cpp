// A kernel checks its arguments, reserves its key, runs the tasks and bumps the version counter, in
// that order, so that a rejected, empty, fake or meta call consumes no randomness.
#include "torch/fills.h"

#include <algorithm>
#include <string>

#include "host/boxes_apart.h"
#include "host/fp_env.h"
#include "torch/backend.h"
#include "torch/operators.h"
#include "torch/testing.h"

namespace fastinit::ops {

// Each kernel works under our floating-point environment from its checks on: whether an argument is
// accepted must not depend on the caller's rounding or on flushed subnormals either.
void fill(On on, const char* name, const at::Tensor& self, const Fill& what, const Key& key,
          const Generator& generator) {
  const host::FpEnv env;
  check_one_source(name, key, generator);
  check_fill(name, self, what);
  if (on == On::Device) {
    std::vector<FillTask> tasks;
    append_tasks(name, tasks, self, what, 0);
    if (!tasks.empty()) {
      const Backend& backend = *backend_of(self.device());
      const uint64_t k = key.has_value() ? static_cast<uint64_t>(*key)
                                         : backend.reserve_key(name, self.device(), generator);
      for (FillTask& task : tasks) task.key = k;
      backend.execute(name, self.device(), tasks.data(), tasks.size());
    }
  }
  bump_version(self);
}

namespace {

using at::Tensor;

// ---- many tensors -------------------------------------------------------------------------------

// What one device has to do of a list: the tasks of tensors that have elements, in their order.
struct DeviceFills {
  at::Device device;
  std::vector<FillTask> tasks;
  std::vector<const Tensor*> tensors;
  std::vector<Span> spans;         // of them
  std::vector<size_t> first_task;  // of each of them
};

// A handful of devices: searched from the last one found.
DeviceFills& fills_of(std::vector<DeviceFills>& groups, at::Device device, size_t expected) {
  for (auto group = groups.rbegin(); group != groups.rend(); ++group)
    if (group->device == device) return *group;
  groups.push_back({device, {}, {}, {}, {}});
  groups.back().tasks.reserve(expected);
  groups.back().spans.reserve(expected);
  groups.back().first_task.reserve(expected);
  return groups.back();
}

// Whether two tensors whose spans meet may share an element; boxes of one shard do not.
bool may_share(const Tensor& x, const Tensor& y) {
  if (x.strides() != y.strides() || x.element_size() != y.element_size()) return true;
  const int64_t bytes =
      static_cast<const char*>(y.const_data_ptr()) - static_cast<const char*>(x.const_data_ptr());
  return bytes % x.element_size() != 0 ||
         !BoxesApart::check(static_cast<int>(x.dim()), x.sizes().data(), y.sizes().data(),
                            x.strides().data(), bytes / x.element_size());
}

// Tensors that share memory are filled one after the other, all others at once: those of a wave
// share none, and each comes after all that it shares memory with and that stand before it.
std::vector<size_t> waves_of(const std::vector<Span>& spans,
                             const std::vector<const Tensor*>& tensors) {
  const size_t n = spans.size();
  std::vector<size_t> by_address(n), wave(n, 0);
  for (size_t k = 0; k < n; ++k) by_address[k] = k;
  std::sort(by_address.begin(), by_address.end(),
            [&](size_t x, size_t y) { return spans[x].begin < spans[y].begin; });
  for (size_t first = 0, next; first < n; first = next) {
    // Spans first ... next - 1 hang together; those of others begin behind them.
    const char* end = spans[by_address[first]].end;
    for (next = first + 1; next < n && spans[by_address[next]].begin < end; ++next)
      end = std::max(end, spans[by_address[next]].end);
    const auto group = by_address.begin() + static_cast<ptrdiff_t>(first);
    const auto behind = by_address.begin() + static_cast<ptrdiff_t>(next);
    std::sort(group, behind);  // the order of the list
    for (auto later = group; later != behind; ++later)
      for (auto earlier = group; earlier != later; ++earlier) {
        const Span &a = spans[*earlier], &b = spans[*later];
        if (a.begin < b.end && b.begin < a.end && may_share(*tensors[*earlier], *tensors[*later]))
          wave[*later] = std::max(wave[*later], wave[*earlier] + 1);
      }
  }
  return wave;
}

void run(const char* name, const DeviceFills& fills) {
  const Backend& backend = *backend_of(fills.device);
  if (!any_overlap(fills.spans)) {
    backend.execute(name, fills.device, fills.tasks.data(), fills.tasks.size());
    return;
  }
  const std::vector<size_t> wave = waves_of(fills.spans, fills.tensors);
  std::vector<std::vector<FillTask>> waves(1 + *std::max_element(wave.begin(), wave.end()));
  for (size_t k = 0; k < wave.size(); ++k) {
    const bool last = k + 1 == wave.size();
    const size_t end = last ? fills.tasks.size() : fills.first_task[k + 1];
    for (size_t t = fills.first_task[k]; t < end; ++t) waves[wave[k]].push_back(fills.tasks[t]);
  }
  for (const auto& tasks : waves) backend.execute(name, fills.device, tasks.data(), tasks.size());
}

// ---- the plan of fill_many_ ---------------------------------------------------------------------

std::string known_codes() {
  std::string codes;
  for (const DistributionRow& row : kDistributions)
    codes += (codes.empty() ? "" : ", ") + std::to_string(static_cast<int>(row.distribution)) +
             " (" + row.name + ")";
  return codes;
}

// One Fill per tensor.
std::vector<Fill> read_plan(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                            at::IntArrayRef keys) {
  const size_t n = tensors.size();
  TORCH_CHECK(args.size() == 4 * n, "fill_many_: expects four 'args' per tensor, ", 4 * n,
              " in all, but got ", args.size());
  TORCH_CHECK(keys.size() == n, "fill_many_: expects one of 'keys' per tensor, ", n,
              " in all, but got ", keys.size());
  std::vector<Fill> fills;
  fills.reserve(n);
  size_t at = 0;
  for (size_t k = 0; k < n; ++k) {
    TORCH_CHECK(at + 2 <= plan.size(), "fill_many_: 'plan' ends before tensor ", k);
    const int64_t code = plan[at], nd = plan[at + 1];
    TORCH_CHECK(code >= 0 && code < static_cast<int64_t>(kDistributionCount),
                "fill_many_: 'plan' names distribution ", code, " for tensor ", k, "; known are ",
                known_codes());
    TORCH_CHECK(nd == 0 || nd == tensors[k].dim(), "fill_many_: 'plan' describes a shard of ", nd,
                " dimensions for tensor ", k, ", which has ", tensors[k].dim());
    const auto dims = static_cast<size_t>(nd);
    TORCH_CHECK(at + 2 + 2 * dims <= plan.size(), "fill_many_: 'plan' ends before tensor ", k);
    fills.push_back({static_cast<Distribution>(code),
                     {args[4 * k], args[4 * k + 1], args[4 * k + 2], args[4 * k + 3]},
                     {plan.slice(at + 2, dims), plan.slice(at + 2 + dims, dims)}});
    at += 2 + 2 * dims;
  }
  TORCH_CHECK(at == plan.size(), "fill_many_: 'plan' has ", plan.size() - at, " numbers too many");
  return fills;
}
static_assert(kMaxArguments == 4, "fill_many_ takes as many 'args' per tensor");

}  // namespace

void fill_all(const char* name, at::TensorList tensors, const std::vector<Fill>& fills,
              at::IntArrayRef keys) {
  const host::FpEnv env;
  std::vector<DeviceFills> groups;
  for (size_t k = 0; k < tensors.size(); ++k) {
    const at::Tensor& t = tensors[k];
    TORCH_CHECK_NOT_IMPLEMENTED(backend_of(t.device()) != nullptr, name,
                                ": not implemented for device ", t.device());
    check_fill(name, t, fills[k]);
    DeviceFills& group = fills_of(groups, t.device(), tensors.size());
    const size_t first = group.tasks.size();
    append_tasks(name, group.tasks, t, fills[k], static_cast<uint64_t>(keys[k]));
    if (t.numel() == 0) continue;
    group.tensors.push_back(&t);
    group.spans.push_back(span_of(t));
    group.first_task.push_back(first);
  }
  // Devices that only take orders first: they compute while the others do.
  std::stable_partition(groups.begin(), groups.end(), [](const DeviceFills& group) {
    return !backend_of(group.device)->computes_at_once;
  });
  for (const DeviceFills& group : groups) run(name, group);
  for (const at::Tensor& t : tensors) bump_version(t);
}

int64_t key_from(const char* name, at::Device device, const Generator& generator) {
  const Backend* backend = backend_of(device);
  TORCH_CHECK_NOT_IMPLEMENTED(backend != nullptr, name, ": no generator of fastinit for device ",
                              device);
  return static_cast<int64_t>(backend->reserve_key(name, device, generator));
}

// ---- the operators ------------------------------------------------------------------------------

void fill_many_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                at::IntArrayRef keys) {
  fill_all("fill_many_", tensors, read_plan(tensors, plan, args, keys), keys);
}

void fill_many_meta_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                     at::IntArrayRef keys) {
  const host::FpEnv env;
  const std::vector<Fill> fills = read_plan(tensors, plan, args, keys);
  for (size_t k = 0; k < tensors.size(); ++k) {
    TORCH_CHECK(tensors[k].is_meta(), "fill_many_: expects tensors of one device, but got ",
                tensors[k].device(), " beside meta");
    check_fill("fill_many_", tensors[k], fills[k]);
  }
  for (const at::Tensor& t : tensors) bump_version(t);
}

void fill_many_nowhere_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                        at::IntArrayRef keys) {
  check_nowhere("fill_many_", tensors);
  read_plan(tensors, plan, args, keys);
}

int64_t reserve_key(at::Device device, Generator generator) {
  return key_from("reserve_key", device, generator);
}

std::vector<int64_t> waves_of(at::TensorList tensors) {
  std::vector<Span> spans;
  std::vector<const Tensor*> those;
  for (const Tensor& t : tensors) {
    spans.push_back(span_of(t));
    those.push_back(&t);
  }
  const std::vector<size_t> waves = waves_of(spans, those);
  return {waves.begin(), waves.end()};
}

}  // namespace fastinit::ops
