// The backend of CUDA: device guard, current stream, generator, and the memory of a launch's table.
// It includes what a CPU torch has the headers of, too (tests/cuda/test_cuda_glue.py), and so not
// ATen/cuda/CUDAContext.h.
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/executor.h"
#include "cuda/orthogonal.h"
#include "torch/backend.h"

namespace fastinit::ops {
namespace {

// What torch's own kernels add at least, and a multiple of which their offsets must be.
constexpr uint64_t kOffsetStep = 4;

bool is_capturing(c10::cuda::CUDAStream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  C10_CUDA_CHECK(cudaStreamIsCapturing(stream.stream(), &status));
  return status != cudaStreamCaptureStatusNone;
}

// Asked before the generator is touched, so that a capture that ends here leaves no trace in it.
void check_not_capturing(const char* name, c10::Device device) {
  TORCH_CHECK(!is_capturing(c10::cuda::getCurrentCUDAStream(device.index())), name,
              ": a draw from a generator cannot be captured in a CUDA graph, every replay of which "
              "would write the same numbers again; pass 'key' if that is meant, or fill outside of "
              "the capture");
}

uint64_t reserve_key(const char* name, c10::Device device,
                     const std::optional<at::Generator>& generator) {
  if (!device.has_index()) device.set_index(c10::cuda::current_device());
  const c10::cuda::CUDAGuard guard(device);
  auto* impl = at::get_generator_or_default<at::CUDAGeneratorImpl>(
      generator, at::cuda::detail::getDefaultCUDAGenerator(device.index()));
  check_not_capturing(name, device);
  const std::lock_guard<std::mutex> lock(impl->mutex_);
  const at::PhiloxCudaState state = impl->philox_cuda_state(kOffsetStep);
  return derive(state.seed_.val, state.offset_.val, Purpose::GeneratorCuda);
}

// Memory for the table of one launch, from torch's caching allocators, so that neither part is used
// again before the launch has read it: the device's part is returned in the order of `stream`, the
// host's when the event of `queued` has passed.
class Table {
 public:
  Table(size_t bytes, c10::cuda::CUDAStream stream) : bytes_(bytes), stream_(stream) {
    if (bytes == 0) return;
    host_ = at::getHostAllocator(at::kCUDA)->allocate(bytes);
    device_ = c10::cuda::CUDACachingAllocator::get()->allocate(bytes);
  }

  cuda::TableMemory memory() const { return {host_.get(), device_.get(), bytes_}; }

  void queued() const {
    if (bytes_ > 0)
      at::getHostAllocator(at::kCUDA)->record_event(host_.get(), host_.get_context(),
                                                    stream_.unwrap());
  }

 private:
  size_t bytes_;
  c10::cuda::CUDAStream stream_;
  c10::DataPtr host_, device_;
};

void check_launch(const char* name, c10::Device device, int error) {
  TORCH_CHECK(error == cudaSuccess, name, ": the launch on ", device,
              " failed: ", cuda::error_text(error), " (CUDA error ", error, ")",
              error == cudaErrorNoKernelImageForDevice
                  ? "; build fastinit with TORCH_CUDA_ARCH_LIST naming this device's capability"
                  : "");
}

void execute(const char* name, c10::Device device, const FillTask* tasks, size_t count) {
  if (count == 0) return;
  const c10::cuda::CUDAGuard guard(device);
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream(device.index());
  size_t bytes = cuda::table_bytes(tasks, count);
  if (bytes > 0 && is_capturing(stream)) bytes = 0;  // it would have to live as long as the graph
  const Table table(bytes, stream);
  const int error = cuda::execute(tasks, count, stream.stream(), table.memory());
  table.queued();  // also after an error: part of the work may be on its way
  check_launch(name, device, error);
}

void make_orthogonal(const char* name, c10::Device device, const SmallShape& shape,
                     const SmallBatch* batches, size_t count) {
  const c10::cuda::CUDAGuard guard(device);
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream(device.index());
  check_launch(name, device, cuda::make_orthogonal(shape, batches, count, stream.stream()));
}

Backend cuda_backend() {
  Backend b;
  b.reserve_key = reserve_key;
  b.execute = execute;
  b.computes_at_once = false;
  b.makes_small = cuda::fits_shared_memory;
  b.make_orthogonal = make_orthogonal;
  b.small_matrix_bytes = b.matrix_bytes = int64_t{256} << 20;
  // It waits for the launches of many narrow panels, and for triangular solves of wide ones.
  b.panel_fraction = 4;
  b.most_reflections = 768;
  b.column_lengths = column_lengths_by_norm;
  b.zero_smallest = zero_smallest_by_ranking;
  b.most_sparse_rows = kMostRanked;
  return b;
}

const RegisterBackend registered(at::kCUDA, cuda_backend());

}  // namespace
}  // namespace fastinit::ops
