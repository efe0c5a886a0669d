// Whether two boxes of one strided tensor share no element although one begins before the other
// ends: the columns of a matrix, say, in two parts.
#pragma once

#include <cstdint>

#include "host/self_overlap.h"

namespace fastinit {

// Boxes of sizes a and b with the same strides, b's first element `to` elements behind a's. If that
// is a sum d of strides, and no other is as far as two of their elements can be apart, then they
// meet where their ranges, b's moved by d, do in every dimension.
class BoxesApart {
 public:
  using Wide = OverlapSearch::Wide;
  static constexpr int kMost = 8;

  // False also where it cannot be told.
  static bool check(int ndim, const int64_t* a, const int64_t* b, const int64_t* stride, Wide to) {
    if (ndim > kMost) return false;
    BoxesApart boxes;
    for (int k = 0; k < ndim; ++k) {
      if (stride[k] <= 0) return false;
      boxes.add(a[k], b[k], stride[k]);
    }
    return boxes.reach(0, to, false) >= 0;
  }

 private:
  int ndim_ = 0;
  Wide a_[kMost], b_[kMost], stride_[kMost];

  void add(int64_t a, int64_t b, int64_t stride) {
    int k = ndim_++;
    for (; k > 0 && stride_[k - 1] < stride; --k) {
      a_[k] = a_[k - 1];
      b_[k] = b_[k - 1];
      stride_[k] = stride_[k - 1];
    }
    a_[k] = a;
    b_[k] = b;
    stride_[k] = stride;
  }

  // How far apart elements can be by dimensions k and later, less what `to` says; -1 unless that
  // tells the boxes apart.
  Wide reach(int k, Wide to, bool apart) const {
    if (k == ndim_) return to == 0 && apart ? 0 : -1;
    const Wide down = OverlapSearch::floor_div(to, stride_[k]);
    Wide found = less(moved(k, down, to, apart), moved(k, down + 1, to, apart));
    // A dimension of size one has any stride, and moves nothing.
    if (a_[k] == 1 && b_[k] == 1) found = less(found, moved(k, 0, to, apart));
    return found;
  }

  static Wide less(Wide a, Wide b) { return b < 0 || (a >= 0 && a < b) ? a : b; }

  // With b moved by d in dimension k.
  Wide moved(int k, Wide d, Wide to, bool apart) const {
    const bool here = d >= a_[k] || -d >= b_[k];
    const Wide behind = a_[k] - 1 - d, ahead = b_[k] - 1 + d;
    const Wide most =
        OverlapSearch::max(OverlapSearch::max(behind, -behind), OverlapSearch::max(ahead, -ahead));
    const Wide rest = reach(k + 1, to - d * stride_[k], apart || here);
    if (rest < 0 || (most > 0 && rest >= stride_[k])) return -1;
    return rest + most * stride_[k];
  }
};

}  // namespace fastinit
