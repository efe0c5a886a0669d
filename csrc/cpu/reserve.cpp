#include "cpu/reserve.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace fastinit::cpu {

#if defined(MAP_NORESERVE) && defined(MAP_ANONYMOUS)

bool can_reserve() { return true; }

void* reserve(size_t bytes) {
  void* begin = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return begin == MAP_FAILED ? nullptr : begin;
}

void unreserve(void* begin, size_t bytes) { munmap(begin, bytes); }

#else

bool can_reserve() { return false; }
void* reserve(size_t) { return nullptr; }
void unreserve(void*, size_t) {}

#endif

}  // namespace fastinit::cpu
