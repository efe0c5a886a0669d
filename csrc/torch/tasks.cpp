#include "torch/tasks.h"

#include <ATen/ops/scalar_tensor.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

#include "host/overlap.h"
#include "host/prepare_transform.h"
#include "torch/backend.h"

namespace fastinit::ops {
using at::ScalarType;

std::optional<DType> float_dtype(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
    case ScalarType::ComplexFloat:
      return DType::F32;
    case ScalarType::Double:
    case ScalarType::ComplexDouble:
      return DType::F64;
    case ScalarType::Half:
      return DType::F16;
    case ScalarType::BFloat16:
      return DType::BF16;
    case ScalarType::Float8_e4m3fn:
      return DType::E4M3;
    case ScalarType::Float8_e5m2:
      return DType::E5M2;
    default:
      return std::nullopt;
  }
}

namespace {

void check_finite(const Fill& fill, const char* argument, double value) {
  TORCH_CHECK(std::isfinite(value), fill.name, ": argument '", argument,
              "' must be finite, but got ", value);
}

void check_within(const Fill& fill, const char* argument, double value, double max,
                  ScalarType type) {
  TORCH_CHECK(value >= -max && value <= max, fill.name, ": argument '", argument, "' is ", value,
              ", out of the range [", -max, ", ", max, "] of ", type);
}

void check_uniform(const Fill& fill, double max, ScalarType type) {
  const double a = fill.args[0], b = fill.args[1];
  check_finite(fill, "a", a);
  check_finite(fill, "b", b);
  TORCH_CHECK(a <= b, fill.name, ": expects a <= b, but got a = ", a, " and b = ", b);
  check_within(fill, "a", a, max, type);
  check_within(fill, "b", b, max, type);
  TORCH_CHECK(b - a <= max, fill.name, ": expects b - a <= ", max, " for ", type,
              ", but got a = ", a, " and b = ", b);
}

void check_std(const Fill& fill, double std) {
  check_finite(fill, "std", std);
  TORCH_CHECK(std >= 0, fill.name, ": expects std >= 0.0, but got std = ", std);
}

void check_normal(const Fill& fill, double max, double widest, ScalarType type) {
  check_finite(fill, "mean", fill.args[0]);
  check_std(fill, fill.args[1]);
  check_within(fill, "mean", fill.args[0], max, type);
  // Samples reach 9.5 standard deviations, and their scale must stay finite on the way.
  check_within(fill, "std", fill.args[1], std::min(max, widest / 16), type);
}

void check_trunc_normal(const Fill& fill, double max, double widest, ScalarType type) {
  const double mean = fill.args[0], std = fill.args[1], a = fill.args[2], b = fill.args[3];
  check_finite(fill, "mean", mean);
  check_std(fill, std);
  check_within(fill, "mean", mean, widest, type);
  check_within(fill, "std", std, widest / 64, type);
  TORCH_CHECK(!std::isnan(a), fill.name, ": argument 'a' must not be nan");
  TORCH_CHECK(!std::isnan(b), fill.name, ": argument 'b' must not be nan");
  TORCH_CHECK(a <= b, fill.name, ": expects a <= b, but got a = ", a, " and b = ", b);
  TORCH_CHECK(a <= max && b >= -max, fill.name, ": no value of ", type, " lies in [a, b] = [", a,
              ", ", b, "]");
}

bool is_random(Distribution d) { return d != Distribution::Constant; }

Kind kind_of(Distribution d) {
  switch (d) {
    case Distribution::Uniform:
      return Kind::Uniform;
    case Distribution::Normal:
      return Kind::Normal;
    case Distribution::TruncNormal:
      return Kind::Central;
    case Distribution::Words:
      return Kind::Words;
    default:
      return Kind::Constant;
  }
}

// The bytes torch itself would store for this value.
Transform constant_transform(const at::Tensor& self, double value) {
  Transform t;
  memset(&t, 0, sizeof t);
  t.kind = Kind::Constant;
  t.dtype = DType::Bytes;
  t.item_size = static_cast<uint8_t>(self.element_size());
  const at::Tensor one = at::scalar_tensor(value, self.options().device(at::kCPU));
  memcpy(t.pattern, one.const_data_ptr(), self.element_size());
  return t;
}

Transform transform_for(const at::Tensor& self, const Fill& fill) {
  if (fill.distribution == Distribution::Constant) return constant_transform(self, fill.args[0]);
  double args[4] = {fill.args[0], fill.args[1], fill.args[2], fill.args[3]};
  DType dtype = DType::Word;
  if (fill.distribution != Distribution::Words) dtype = *float_dtype(self.scalar_type());
  // Real and imaginary part share the variance.
  if (self.is_complex() && fill.distribution == Distribution::Normal) args[1] /= std::sqrt(2.0);
  return host::prepare_transform(kind_of(fill.distribution), dtype, args);
}

// Tasks hold few dimensions; more are unrolled from the slowest on.
void append_layout(std::vector<FillTask>& tasks, FillTask task, const Dim* dims, int ndim) {
  if (ndim > kMaxDims) {
    const int64_t item = task.transform.item_size;
    for (int64_t k = 0; k < dims[0].size; ++k) {
      append_layout(tasks, task, dims + 1, ndim - 1);
      task.data += dims[0].memory * item;
      task.layout.first += static_cast<uint64_t>(dims[0].logical);
    }
    return;
  }
  task.layout.ndim = ndim;
  std::copy(dims, dims + ndim, task.layout.dims);
  tasks.push_back(task);
}

}  // namespace

void check_one_source(const char* name, const std::optional<int64_t>& key,
                      const std::optional<at::Generator>& generator) {
  TORCH_CHECK(!(key.has_value() && generator.has_value() && generator->defined()), name,
              ": pass either 'key' or 'generator', not both");
}

void check_writable(const char* name, const at::Tensor& self) {
  TORCH_CHECK(!self.is_inference() || c10::InferenceMode::is_enabled(), name,
              ": inplace update to an inference tensor outside InferenceMode is not allowed; clone "
              "the tensor first");
}

void check_no_overlap(const char* name, const at::Tensor& self) {
  TORCH_CHECK(!overlaps_itself(self.sizes().data(), self.strides().data(), self.dim()), name,
              ": more than one element of the tensor of size ", self.sizes(), " and strides ",
              self.strides(), " may refer to a single memory location; clone() it before filling");
}

Span span_of(const at::Tensor& self) {
  int64_t last = 0;
  for (int64_t k = 0; k < self.dim(); ++k) last += (self.size(k) - 1) * self.stride(k);
  const char* begin = static_cast<const char*>(self.const_data_ptr());
  return {begin, begin + (last + 1) * self.element_size()};
}

bool any_overlap(std::vector<Span> spans) {
  std::sort(spans.begin(), spans.end(),
            [](const Span& x, const Span& y) { return x.begin < y.begin; });
  for (size_t k = 1; k < spans.size(); ++k)
    if (spans[k].begin < spans[k - 1].end) return true;
  return false;
}

void check_nowhere(const char* name, at::TensorList tensors) {
  for (size_t k = 0; k < tensors.size(); ++k) {
    const at::Tensor& t = tensors[k];
    const bool plain = t.layout() == at::kStrided && backend_of(t.device()) != nullptr;
    TORCH_CHECK_NOT_IMPLEMENTED(plain && !t.is_quantized(), name, ": not implemented for tensor ",
                                k, ", of device ", t.device(), ", layout ", t.layout(),
                                " and type ", t.scalar_type());
  }
  TORCH_CHECK_NOT_IMPLEMENTED(tensors.empty(), name, ": not implemented for these tensors");
}

void check_fill(const at::Tensor& self, const Fill& fill) {
  const ScalarType type = self.scalar_type();
  TORCH_CHECK_NOT_IMPLEMENTED(self.layout() == at::kStrided, fill.name,
                              ": only strided tensors are supported, but got layout ",
                              self.layout());
  check_writable(fill.name, self);
  if (fill.distribution == Distribution::Constant) return;
  if (fill.distribution == Distribution::Words) {
    TORCH_CHECK_NOT_IMPLEMENTED(type == ScalarType::Int, fill.name, ": expects int32, but got ",
                                type);
    return;
  }
  const auto dtype = float_dtype(type);
  const bool supported =
      dtype.has_value() && (!self.is_complex() || fill.distribution != Distribution::TruncNormal);
  TORCH_CHECK_NOT_IMPLEMENTED(
      supported, fill.name, ": not implemented for ", type,
      "; supported are float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2",
      fill.distribution == Distribution::TruncNormal ? "" : ", complex64 and complex128");
  const double max = format_of(*dtype).max;
  const double widest = format_of(compute_dtype(*dtype)).max;  // on the way to samples
  if (fill.distribution == Distribution::Uniform) check_uniform(fill, max, type);
  if (fill.distribution == Distribution::Normal) check_normal(fill, max, widest, type);
  if (fill.distribution == Distribution::TruncNormal) check_trunc_normal(fill, max, widest, type);
}

void append_tasks(std::vector<FillTask>& tasks, const at::Tensor& self, const Fill& fill,
                  uint64_t key, Shard shard) {
  if (is_random(fill.distribution)) check_no_overlap(fill.name, self);
  const int64_t ndim = self.dim();
  if (!shard.full_size.empty()) {
    double elements = 1;
    for (const int64_t size : shard.full_size) elements *= static_cast<double>(size);
    TORCH_CHECK(elements < 0x1p62, fill.name, ": full size ", shard.full_size,
                " has more elements than a 64-bit index can number");
    for (int64_t k = 0; k < ndim; ++k)
      TORCH_CHECK(shard.offset[k] >= 0 && self.size(k) <= shard.full_size[k] - shard.offset[k],
                  fill.name, ": shard of size ", self.sizes(), " at offset ", shard.offset,
                  " does not lie in the full size ", shard.full_size);
  }
  if (self.numel() == 0) return;

  FillTask task;
  memset(&task, 0, sizeof task);
  task.transform = transform_for(self, fill);
  task.key = key;
  task.purpose = fill.distribution == Distribution::Words ? Purpose::Mask : Purpose::Value;
  task.data = static_cast<char*>(self.mutable_data_ptr());

  // A complex random fill is a fill of its real and imaginary parts, one more dimension of size
  // two.
  const int64_t parts = self.is_complex() && is_random(fill.distribution) ? 2 : 1;
  std::vector<Dim> dims(static_cast<size_t>(ndim) + 1);
  int64_t logical = parts;
  for (int64_t k = ndim - 1; k >= 0; --k) {
    dims[k] = {self.size(k), self.stride(k) * parts, logical};
    if (!shard.offset.empty())
      task.layout.first += static_cast<uint64_t>(shard.offset[k]) * static_cast<uint64_t>(logical);
    logical *= shard.full_size.empty() ? self.size(k) : shard.full_size[k];
  }
  dims[ndim] = {parts, 1, 1};
  // Without randomness an element written twice is written with the same value: once is enough.
  for (Dim& d : dims)
    if (d.memory == 0) d.size = 1;
  append_layout(tasks, task, dims.data(), coalesce(dims.data(), static_cast<int>(dims.size())));
}

}  // namespace fastinit::ops
