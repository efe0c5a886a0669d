// Large pages for memory that is going to be written for the first time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastinit::cpu {

// Asks the kernel to back the inside of this memory with huge pages, or not to after all; a hint,
// without effect where there are none. For what has been touched already nothing changes.
void advise_huge_pages(void* begin, size_t bytes, bool wanted = true);

// Touches one page, whose contents stay, and says how long that took: nanoseconds of this thread's
// processor time, which counts what the kernel does, and a host of it, but not who else runs.
int64_t touch_page(void* begin);

}  // namespace fastinit::cpu
