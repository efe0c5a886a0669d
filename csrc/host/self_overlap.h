// Whether a strided tensor overlaps itself: two of its indices name the same memory.
//
// In general this asks for an integer combination of strides that is zero, with bounded
// coefficients. Strides that nest, as those of all ordinary tensors do, are seen at once; the last
// two dimensions are solved by a congruence; what is before them is searched.
#pragma once

#include <cstdint>

#include "core/layout.h"

namespace fastinit {

struct OverlapSearch {
  using Wide = __int128;  // products of strides and sizes

  // Sizes less one and strides, the largest stride first; reach[k]: the farthest that dimensions k
  // and later go.
  static constexpr int kMost = 64;
  int ndim = 0;
  int64_t most[kMost], stride[kMost];
  Wide reach[kMost + 1];
  // Past this many steps the answer is yes: such strides come from no tensor that anyone fills.
  int steps = 1 << 16;

  static Wide floor_div(Wide a, Wide b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
  static Wide ceil_div(Wide a, Wide b) { return -floor_div(-a, b); }
  static Wide max(Wide a, Wide b) { return a < b ? b : a; }
  static Wide min(Wide a, Wide b) { return a < b ? a : b; }

  void add(int64_t size, int64_t memory) {
    int k = ndim++;
    for (; k > 0 && stride[k - 1] < memory; --k) {
      stride[k] = stride[k - 1];
      most[k] = most[k - 1];
    }
    stride[k] = memory;
    most[k] = size - 1;
  }

  // The inverse of a modulo m, which have no common divisor.
  static Wide inverse(Wide a, Wide m) {
    Wide r0 = m, r1 = a % m, x0 = 0, x1 = 1;
    while (r1 != 0) {
      const Wide q = r0 / r1, r2 = r0 - q * r1, x2 = x0 - q * x1;
      r0 = r1, r1 = r2, x0 = x1, x1 = x2;
    }
    return x0 < 0 ? x0 + m : x0;
  }

  // Whether d s + e t == to for |d| <= m and |e| <= n; with `positive`, d > 0 as well.
  static bool solve(Wide s, Wide m, Wide t, Wide n, Wide to, bool positive) {
    Wide g = s, h = t;
    while (h != 0) {
      const Wide rest = g % h;
      g = h, h = rest;
    }
    if (to % g != 0) return false;
    s /= g, t /= g, to /= g;
    const Wide low = max(positive ? 1 : -m, ceil_div(to - n * t, s));
    const Wide high = min(m, floor_div(to + n * t, s));
    const Wide d = (to % t + t) % t * inverse(s, t) % t;  // modulo t
    return low + ((d - low) % t + t) % t <= high;
  }

  // Whether the dimensions from k on can bring `at` back to zero; `moved`: an index before differs.
  bool returns(int k, Wide at, bool moved) {
    if (at > reach[k] || -at > reach[k]) return false;
    if (k == ndim) return moved;
    if (k == ndim - 1) return at % stride[k] == 0 && moved;
    if (k == ndim - 2) return solve(stride[k], most[k], stride[k + 1], most[k + 1], -at, !moved);
    const Wide rest = reach[k + 1];
    const Wide low = max(moved ? -most[k] : 0, ceil_div(-rest - at, stride[k]));
    const Wide high = min(most[k], floor_div(rest - at, stride[k]));
    for (Wide d = low; d <= high; ++d)
      if (--steps < 0 || returns(k + 1, at + d * stride[k], moved || d != 0)) return true;
    return false;
  }

  bool found() {
    reach[ndim] = 0;
    bool nested = true;
    for (int k = ndim - 1; k >= 0; --k) {
      if (stride[k] == 0) return true;
      nested = nested && stride[k] > reach[k + 1];
      reach[k] = reach[k + 1] + static_cast<Wide>(most[k]) * stride[k];
    }
    return !nested && returns(0, 0, false);
  }
};

// Sizes and strides in elements, as torch has them: no stride is negative.
inline bool overlaps_itself(const int64_t* sizes, const int64_t* strides, int64_t ndim) {
  OverlapSearch search;
  for (int64_t k = 0; k < ndim; ++k) {
    if (sizes[k] == 0) return false;
    if (sizes[k] == 1) continue;
    if (search.ndim == OverlapSearch::kMost) return true;
    search.add(sizes[k], strides[k]);
  }
  return search.found();
}

}  // namespace fastinit
