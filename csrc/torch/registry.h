// The operators as the dispatcher knows them.
#pragma once

#include <torch/library.h>

namespace fastinit::ops {

// Registers the kernels of a device that has a backend, for its TORCH_LIBRARY_IMPL.
void implement_on_device(torch::Library& library);

}  // namespace fastinit::ops
