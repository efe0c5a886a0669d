// Transposition of a small matrix, in registers where the elements are small enough.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "core/macros.h"

namespace fastinit::cpu {

// Squares of sixteen-byte vectors: log2(kSide) rounds of interleaving rows k and k + kSide / 2
// transpose one, whatever the element size.
template <class T>
struct SquareTranspose {
  static constexpr int kSide = 16 / sizeof(T);
  typedef T Vector __attribute__((vector_size(16)));

  template <int high, size_t... k>
  static FASTINIT_INLINE Vector interleave(Vector a, Vector b, std::index_sequence<k...>) {
#if FASTINIT_SHUFFLEVECTOR
    return __builtin_shufflevector(a, b, (k % 2 * kSide + k / 2 + high * kSide / 2)...);
#else
    return __builtin_shuffle(a, b, Vector{(k % 2 * kSide + k / 2 + high * kSide / 2)...});
#endif
  }

  static FASTINIT_INLINE void run(const char* from, int64_t pitch, char* to, int64_t stride) {
    constexpr int64_t item = sizeof(T);
    constexpr std::make_index_sequence<kSide> lanes{};
    Vector rows[kSide];
    for (int r = 0; r < kSide; ++r) memcpy(&rows[r], from + r * pitch * item, 16);
    for (int round = 1; round < kSide; round *= 2) {
      Vector next[kSide];
      for (int r = 0; r < kSide / 2; ++r) {
        next[2 * r] = interleave<0>(rows[r], rows[r + kSide / 2], lanes);
        next[2 * r + 1] = interleave<1>(rows[r], rows[r + kSide / 2], lanes);
      }
      for (int r = 0; r < kSide; ++r) rows[r] = next[r];
    }
    for (int c = 0; c < kSide; ++c) memcpy(to + c * stride * item, &rows[c], 16);
  }
};

// to[c * stride + r] = from[r * pitch + c], counted in elements of T's size; neither needs
// alignment.
template <class T>
void transpose(const char* from, int64_t pitch, char* to, int64_t stride, int64_t rows,
               int64_t cols) {
  constexpr int64_t item = sizeof(T);
  int64_t whole_rows = 0, whole_cols = 0;
  if constexpr (sizeof(T) < 16) {
    constexpr int side = SquareTranspose<T>::kSide;
    whole_rows = rows / side * side;
    whole_cols = cols / side * side;
    for (int64_t c = 0; c < whole_cols; c += side)
      for (int64_t r = 0; r < whole_rows; r += side)
        SquareTranspose<T>::run(from + (r * pitch + c) * item, pitch, to + (c * stride + r) * item,
                                stride);
  }
  for (int64_t c = 0; c < cols; ++c)
    for (int64_t r = c < whole_cols ? whole_rows : 0; r < rows; ++r)
      memcpy(to + (c * stride + r) * item, from + (r * pitch + c) * item, item);
}

}  // namespace fastinit::cpu
