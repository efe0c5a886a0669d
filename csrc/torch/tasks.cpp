#include "torch/tasks.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "host/prepare_transform.h"
#include "host/self_overlap.h"
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
  const DistributionRow& row = row_of(fill.distribution);
  if (row.tensors == Tensors::Any) return constant_transform(self, fill.args[0]);
  double args[kMaxArguments];
  std::copy(fill.args, fill.args + kMaxArguments, args);
  if (self.is_complex() && row.shared_scale >= 0) args[row.shared_scale] /= std::sqrt(2.0);
  const bool words = row.tensors == Tensors::Int32;
  const DType dtype = words ? DType::Word : *float_dtype(self.scalar_type());
  return host::prepare_transform(fill.distribution, dtype, args);
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

std::string storage_fault(const at::Tensor& self) {
  if (self.numel() == 0) return {};
  const size_t has = self.storage().nbytes();
  const size_t needs =
      at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.element_size(),
                                       static_cast<size_t>(self.storage_offset()));
  if (needs <= has) return {};
  return c10::str("has ", has, " bytes of storage and needs ", needs, ", for size ", self.sizes(),
                  ", strides ", self.strides(), " and offset ", self.storage_offset());
}

void check_memory(const char* name, const at::Tensor& self, bool may_overlap) {
  TORCH_CHECK(
      may_overlap || !overlaps_itself(self.sizes().data(), self.strides().data(), self.dim()), name,
      ": more than one element of the tensor of size ", self.sizes(), " and strides ",
      self.strides(), " may refer to a single memory location; clone() it before filling");
  const std::string fault = storage_fault(self);
  TORCH_CHECK(fault.empty(), name, ": argument 'tensor' ", fault, "; nothing was written");
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

void check_fill(const char* name, const at::Tensor& self, const Fill& fill) {
  const ScalarType type = self.scalar_type();
  TORCH_CHECK_NOT_IMPLEMENTED(self.layout() == at::kStrided, name,
                              ": only strided tensors are supported, but got layout ",
                              self.layout());
  check_writable(name, self);
  const Tensors tensors = row_of(fill.distribution).tensors;
  if (tensors == Tensors::Any) return;
  if (tensors == Tensors::Int32) {
    TORCH_CHECK_NOT_IMPLEMENTED(type == ScalarType::Int, name, ": expects int32, but got ", type);
    return;
  }
  const auto dtype = float_dtype(type);
  TORCH_CHECK_NOT_IMPLEMENTED(
      dtype.has_value() && (tensors == Tensors::Complex || !self.is_complex()), name,
      ": not implemented for ", type,
      "; supported are float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2",
      tensors == Tensors::Complex ? ", complex64 and complex128" : "");
  const std::string wrong =
      host::check_arguments(fill.distribution, *dtype, fill.args, c10::toString(type));
  TORCH_CHECK(wrong.empty(), name, ": ", wrong);
}

void append_tasks(const char* name, std::vector<FillTask>& tasks, const at::Tensor& self,
                  const Fill& fill, uint64_t key) {
  const Tensors tensors = row_of(fill.distribution).tensors;
  const bool random = tensors != Tensors::Any;
  const Shard& shard = fill.shard;
  check_memory(name, self, /*may_overlap=*/!random);
  const int64_t ndim = self.dim();
  if (!shard.full_size.empty()) {
    double elements = 1;
    for (const int64_t size : shard.full_size) elements *= static_cast<double>(size);
    TORCH_CHECK(elements < 0x1p62, name, ": full size ", shard.full_size,
                " has more elements than a 64-bit index can number");
    for (int64_t k = 0; k < ndim; ++k)
      TORCH_CHECK(shard.offset[k] >= 0 && self.size(k) <= shard.full_size[k] - shard.offset[k],
                  name, ": shard of size ", self.sizes(), " at offset ", shard.offset,
                  " does not lie in the full size ", shard.full_size);
  }
  if (self.numel() == 0) return;

  FillTask task;
  memset(&task, 0, sizeof task);
  task.transform = transform_for(self, fill);
  task.key = key;
  task.purpose = tensors == Tensors::Int32 ? Purpose::Mask : Purpose::Value;
  task.data = static_cast<char*>(self.mutable_data_ptr());

  // A complex random fill is one of real and imaginary parts, one more dimension of size two.
  const int64_t parts = self.is_complex() && random ? 2 : 1;
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

}  // namespace fastinit::ops
