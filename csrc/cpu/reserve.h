// Address space that no memory is behind until somebody touches it.
#pragma once

#include <cstddef>

namespace fastinit::cpu {

// Whether there is such a thing here, other than what allocators do.
bool can_reserve();

// Some, at the begin of a page; nullptr, with errno set, if the system refuses to give so much. It
// is not asked to promise that there will be memory for all of it.
void* reserve(size_t bytes);

void unreserve(void* begin, size_t bytes);

}  // namespace fastinit::cpu
