// What a device brings to the operators: a source of keys and an executor. Everything else (checks,
// the order of events, lists of tensors) is one for all devices and stands in fills.cpp.
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/Device.h>

#include <optional>

#include "core/small_matrices.h"
#include "core/task.h"

namespace fastinit::ops {

struct Backend {
  // Takes a key from the generator, or else from the device's own. `name` is of the operator, for
  // messages.
  uint64_t (*reserve_key)(const char* name, c10::Device device,
                          const std::optional<at::Generator>& generator);
  // Runs tasks whose memory is on `device` and does not overlap.
  void (*execute)(const char* name, c10::Device device, const FillTask* tasks, size_t count);
  // Whether `execute` returns when all is done, and not when it is ordered.
  bool computes_at_once;
  // Whether its kernel makes orthogonal matrices of this shape; for the current device.
  bool (*makes_small)(const SmallShape& shape);
  void (*make_orthogonal)(const char* name, c10::Device device, const SmallShape& shape,
                          const SmallBatch* batches, size_t count);
};

// Null for a device that has none.
const Backend* backend_of(c10::Device device);

// At namespace scope: makes a backend known when the module is loaded.
struct RegisterBackend {
  RegisterBackend(c10::DeviceType type, Backend backend);
};

}  // namespace fastinit::ops
