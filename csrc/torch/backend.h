// What a device brings to the operators. Everything else (checks, the order of events, lists of
// tensors) is one for all devices: no operator asks which one it runs on.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

#include "core/matrix_place.h"
#include "core/small_matrices.h"
#include "core/task.h"

namespace fastinit::ops {

// `name` is of the operator, for messages.
struct Backend {
  // ---- fills
  // Takes a key from the generator, or else from the device's own.
  uint64_t (*reserve_key)(const char* name, c10::Device device,
                          const std::optional<at::Generator>& generator);
  // Runs tasks whose memory is on `device` and does not overlap.
  void (*execute)(const char* name, c10::Device device, const FillTask* tasks, size_t count);
  // Whether `execute` returns when all is done, and not when it is ordered.
  bool computes_at_once;

  // ---- orthogonal matrices
  // Whether its kernel makes matrices of this shape; for the current device.
  bool (*makes_small)(const SmallShape& shape);
  void (*make_orthogonal)(const char* name, c10::Device device, const SmallShape& shape,
                          const SmallBatch* batches, size_t count);
  // Bytes of matrices made together, by that kernel and by matrix products: what occupies it.
  int64_t small_matrix_bytes, matrix_bytes;
  // Reflections applied at once: a part of the narrower side, at most so many. More make larger
  // products but also more work; docs/orthogonal.md has the measurements.
  int64_t panel_fraction, most_reflections;
  // Lengths of the columns of (matrices, rows, width), in double: what decides the accuracy.
  at::Tensor (*column_lengths)(const at::Tensor& x);

  // ---- sparse matrices
  // Zeroes `count` elements, 1 to the number of rows, of every column of the whole, as far as they
  // are in `self`: those with the smallest MASK words. Takes no more rows than most_sparse_rows.
  void (*zero_smallest)(const at::Tensor& self, const MatrixPlace& whole, int64_t count,
                        uint64_t key);
  int64_t most_sparse_rows;
};

// Null for a device that has none.
const Backend* backend_of(c10::Device device);

// At namespace scope: makes a backend known when the module is loaded.
struct RegisterBackend {
  RegisterBackend(c10::DeviceType type, const Backend& backend);
};

// ---- for devices that have no kernel of their own -----------------------------------------------

at::Tensor column_lengths_by_norm(const at::Tensor& x);  // reflections.cpp
void zero_smallest_by_ranking(const at::Tensor& self, const MatrixPlace& whole, int64_t count,
                              uint64_t key);       // sparse.cpp
constexpr int64_t kMostRanked = int64_t{1} << 32;  // of rows: a rank is a word before a row

}  // namespace fastinit::ops
