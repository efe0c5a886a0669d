// Address space that no memory is behind until somebody touches it.
#pragma once

#include <cstddef>
#include <memory>

namespace fastinit::cpu {

// Whether there is such a thing here, other than what allocators do.
bool can_reserve();

class Mapping;

// A part of a mapping, from the begin of a page on. What has been touched of it is given back with
// it, its addresses with the whole mapping.
class Reserved {
 public:
  Reserved(std::shared_ptr<Mapping> mapping, void* begin, size_t bytes)
      : mapping_(std::move(mapping)), begin_(begin), bytes_(bytes) {}
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  ~Reserved();

  void* begin() const { return begin_; }

 private:
  std::shared_ptr<Mapping> mapping_;
  void* begin_;
  size_t bytes_;
};

// Where parts are taken from. To map and unmap each by itself costs the system several times what
// it costs to make a tensor of it, and it allows a process so many mappings only.
class AddressSpace {
 public:
  // together: how much to map at once, for many parts; 0: each is mapped by itself.
  explicit AddressSpace(size_t together = kTogether) : together_(together) {}

  // A part; none, with errno set, if the system refuses to give so much. It is not asked to promise
  // that there will be memory for all of it.
  std::unique_ptr<Reserved> reserve(size_t bytes);

 private:
  static constexpr size_t kTogether = size_t{1} << 42;  // a thirtieth of what processes mostly have

  size_t together_;  // 0 from when the system has refused so much
  std::shared_ptr<Mapping> mapping_;
};

}  // namespace fastinit::cpu
