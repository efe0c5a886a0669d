// What the drivers share: the capabilities to compare, and fills of every kind and type.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/task.h"
#include "cpu/dispatch.h"
#include "cpu/executor.h"
#include "host/prepare_transform.h"

namespace native {

using namespace fastinit;

// Index into cpu::capabilities() of the one that cpu::capability() names (forced_dispatch.cpp).
extern int forced;

struct Case {
  std::string name;
  FillTask task;  // no memory, no layout
};

inline FillTask bare_task(const Transform& transform, Purpose purpose) {
  FillTask task;
  std::memset(&task, 0, sizeof task);
  task.transform = transform;
  task.purpose = purpose;
  task.key = 0x9E3779B97F4A7C15u;
  return task;
}

// Every kind for every type: clamped and not, each branch of the truncated normal and its mirror.
inline std::vector<Case> random_cases() {
  const double inf = std::numeric_limits<double>::infinity();
  struct Arguments {
    Distribution distribution;
    double args[4];
  };
  const Arguments all[] = {
      {Distribution::Uniform, {0, 1, 0, 0}},
      {Distribution::Uniform, {-0.3, 0.7, 0, 0}},
      {Distribution::Uniform, {-1e-7, 1e-7, 0, 0}},
      {Distribution::Normal, {0, 1, 0, 0}},
      {Distribution::Normal, {0.5, 300, 0, 0}},
      {Distribution::Normal, {0, 1e-6, 0, 0}},
      {Distribution::TruncNormal, {0, 1, -2, 2}},
      {Distribution::TruncNormal, {0.1, 1, -inf, inf}},
      {Distribution::TruncNormal, {0, 1, 0, inf}},
      {Distribution::TruncNormal, {0, 1, -0.01, 0.02}},
      {Distribution::TruncNormal, {0, 2, -0.2, 0.1}},
      {Distribution::TruncNormal, {0, 1, 3, 5}},
      {Distribution::TruncNormal, {0, 1, 8, inf}},
      {Distribution::TruncNormal, {0, 1, -5, -3}},
      {Distribution::TruncNormal, {0, 1, 31, inf}},
      {Distribution::TruncNormal, {0, 1, -inf, -33}},
      {Distribution::TruncNormal, {-1e4, 1, 0, 1}},
      {Distribution::TruncNormal, {-1e-35, 1e-37, 0, 1e-36}},
      {Distribution::TruncNormal, {-5e-36, 1e-37, 0, inf}},
      {Distribution::TruncNormal, {-3.2e38, 1e37, 0, inf}},
      {Distribution::TruncNormal, {0, 1e-37, -2e-37, 2e-37}},
      {Distribution::TruncNormal, {0, 1e37, 2e37, inf}},
  };
  const struct {
    DType dtype;
    const char* name;
  } dtypes[] = {{DType::F32, "f32"},   {DType::F64, "f64"},   {DType::F16, "f16"},
                {DType::BF16, "bf16"}, {DType::E4M3, "e4m3"}, {DType::E5M2, "e5m2"}};
  std::vector<Case> cases;
  for (const auto& dtype : dtypes) {
    for (const Arguments& a : all) {
      const Transform t = host::prepare_transform(a.distribution, dtype.dtype, a.args);
      if (t.kind == Kind::Constant) continue;  // too narrow an interval for this type
      const std::string kind = std::to_string(static_cast<int>(t.kind));
      cases.push_back({std::string(dtype.name) + " kind " + kind + " (" +
                           std::to_string(a.args[0]) + ", " + std::to_string(a.args[1]) + ", " +
                           std::to_string(a.args[2]) + ", " + std::to_string(a.args[3]) + ")",
                       bare_task(t, Purpose::Value)});
    }
  }
  const double none[4] = {};
  cases.push_back(
      {"words",
       bare_task(host::prepare_transform(Distribution::Words, DType::Word, none), Purpose::Mask)});
  return cases;
}

}  // namespace native
