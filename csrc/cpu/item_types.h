// Elements as bytes: a type of each size that elements have.
#pragma once

#include <cstdint>

namespace fastinit::cpu {

struct Item16 {
  uint64_t half[2];
};

// Calls f with an item of `size` bytes, 1, 2, 4, 8 or 16, for its type.
template <class F>
void with_item_type(int size, const F& f) {
  switch (size) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    case 8:
      return f(uint64_t{});
    default:
      return f(Item16{});
  }
}

}  // namespace fastinit::cpu
