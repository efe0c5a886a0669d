#include "cpu/huge_pages.h"

#include <cstdint>
#include <ctime>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastinit::cpu {

#if defined(MADV_HUGEPAGE)

namespace {
constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
}

void advise_huge_pages(void* begin, size_t bytes, bool wanted) {
  const uintptr_t start = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t first = (start + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (start + bytes) / kHugePage * kHugePage;
  const int advice = wanted ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, advice);
}

#else

void advise_huge_pages(void*, size_t, bool) {}

#endif

#if defined(CLOCK_THREAD_CPUTIME_ID)

namespace {
int64_t thread_time() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}
}  // namespace

int64_t touch_page(void* begin) {
  const int64_t before = thread_time();
  // A write, as a read would get a page of zeros that all share; and others may write here.
  __atomic_fetch_or(static_cast<unsigned char*>(begin), 0, __ATOMIC_RELAXED);
  return thread_time() - before;
}

#else

int64_t touch_page(void*) { return 0; }

#endif

}  // namespace fastinit::cpu
