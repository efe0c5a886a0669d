// One name for all transforms: words -> samples of a kind, chosen at compile time, clamped or not.
#pragma once

#include "core/transforms.h"

namespace fastinit {

// One sample of each transform that maps a word to an element.
template <class L, Kind kind, bool unit_exact = false>
FASTINIT_HD FASTINIT_INLINE typename L::F sample(const TransformArgs<typename L::Real>& t,
                                                 typename L::W w, typename L::W low) {
  if constexpr (kind == Kind::Uniform) return uniform<L, unit_exact>(t, w, low);
  if constexpr (kind == Kind::Narrow) return trunc_normal_narrow<L>(t, w, low);
  if constexpr (kind == Kind::Central) return trunc_normal_central<L>(t, w, low);
  if constexpr (kind == Kind::Tail) return trunc_normal_tail<L>(t, w, low);
  if constexpr (kind == Kind::Far) return trunc_normal_far<L>(t, w, low);
}

// Elements 2k from `even` words and 2k + 1 from `odd` ones.
template <class L, Kind kind>
FASTINIT_HD FASTINIT_INLINE void sample_pair(const TransformArgs<typename L::Real>& t,
                                             typename L::W even, typename L::W odd,
                                             typename L::W even_low, typename L::W odd_low,
                                             typename L::F& first, typename L::F& second) {
  if constexpr (kind == Kind::Normal) {
    normal_pair<L>(t, even, odd, even_low, odd_low, first, second);
  } else {
    first = sample<L, kind>(t, even, even_low);
    second = sample<L, kind>(t, odd, odd_low);
  }
}

template <class L>
FASTINIT_HD FASTINIT_INLINE typename L::F clamp(const TransformArgs<typename L::Real>& t,
                                                typename L::F x) {
  return L::at_most(L::at_least(x, L::set(t.lo)), L::set(t.hi));
}

}  // namespace fastinit
