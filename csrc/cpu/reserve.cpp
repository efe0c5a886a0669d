#include "cpu/reserve.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fastinit::cpu {

#if defined(MAP_NORESERVE) && defined(MAP_ANONYMOUS)

namespace {

size_t in_pages(size_t bytes) {
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

}  // namespace

class Mapping {
 public:
  static std::shared_ptr<Mapping> of(size_t bytes) {
    void* begin = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return begin == MAP_FAILED ? nullptr : std::make_shared<Mapping>(begin, bytes);
  }

  Mapping(void* begin, size_t bytes) : begin_(begin), bytes_(bytes) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(begin_, bytes_); }

  // nullptr if there is not so much left.
  void* take(size_t bytes) {
    if (bytes > bytes_ - used_) return nullptr;
    void* begin = static_cast<char*>(begin_) + used_;
    used_ += bytes;
    return begin;
  }

 private:
  void* begin_;
  size_t bytes_;
  size_t used_ = 0;
};

bool can_reserve() { return true; }

Reserved::~Reserved() {
  if (mapping_.use_count() > 1) madvise(begin_, bytes_, MADV_DONTNEED);
}

std::unique_ptr<Reserved> AddressSpace::reserve(size_t bytes) {
  const size_t whole = in_pages(bytes);
  void* begin = mapping_ ? mapping_->take(whole) : nullptr;
  if (begin == nullptr && whole <= together_) {
    if (auto mapping = Mapping::of(together_)) {
      mapping_ = std::move(mapping);
      begin = mapping_->take(whole);
    } else {
      together_ = 0;
    }
  }
  if (begin != nullptr) return std::make_unique<Reserved>(mapping_, begin, whole);
  auto mapping = Mapping::of(whole);
  if (!mapping) return nullptr;
  begin = mapping->take(whole);
  return std::make_unique<Reserved>(std::move(mapping), begin, whole);
}

#else

class Mapping {};

bool can_reserve() { return false; }
Reserved::~Reserved() = default;
std::unique_ptr<Reserved> AddressSpace::reserve(size_t) { return nullptr; }

#endif

}  // namespace fastinit::cpu
