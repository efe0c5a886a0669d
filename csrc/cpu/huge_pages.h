// Large pages for memory that is going to be written for the first time.
#pragma once

#include <cstddef>

namespace fastinit::cpu {

// Asks the kernel to back the inside of this memory with huge pages; a hint, without effect where
// there are none. To be called before the memory is touched.
void advise_huge_pages(void* begin, size_t bytes);

}  // namespace fastinit::cpu
