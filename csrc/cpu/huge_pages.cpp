#include "cpu/huge_pages.h"

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastinit::cpu {

#if defined(MADV_HUGEPAGE)

namespace {
constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
}

void advise_huge_pages(void* begin, size_t bytes) {
  const uintptr_t start = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t first = (start + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (start + bytes) / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

#else

void advise_huge_pages(void*, size_t) {}

#endif

}  // namespace fastinit::cpu
