// The kernels that registry.cpp makes operators of: what runs on a device, what a meta tensor gets
// (the checks and a new version), and what lists get in which the dispatcher finds no device.
#pragma once

#include <string_view>

#include "torch/fills.h"

namespace fastinit::ops {

using Keys = std::optional<at::ArrayRef<int64_t>>;

// ---- fills.cpp: those of one distribution are made of its table (elementwise.h) -----------------

void fill_many_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                at::IntArrayRef keys);
void fill_many_meta_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                     at::IntArrayRef keys);
void fill_many_nowhere_(at::TensorList tensors, at::IntArrayRef plan, at::ArrayRef<double> args,
                        at::IntArrayRef keys);

int64_t reserve_key(at::Device device, Generator generator);

// ---- shards.cpp; those of other files below take `full_size` and `boxes` likewise ---------------

template <On on>
void fill_shard_(const at::Tensor& self, std::string_view distribution, at::ArrayRef<double> args,
                 at::IntArrayRef full_size, at::IntArrayRef boxes, Key key, Generator generator);

// ---- orthogonal.cpp -----------------------------------------------------------------------------

template <On on>
void orthogonal_(const at::Tensor& self, double gain, int64_t batch_dims, std::string_view method,
                 Key key, Generator generator);
template <On on>
void orthogonal_many_(at::TensorList tensors, at::ArrayRef<double> gains, int64_t batch_dims,
                      std::string_view method, Keys keys, Generator generator);
void orthogonal_many_nowhere_(at::TensorList tensors, at::ArrayRef<double> gains,
                              int64_t batch_dims, std::string_view method, Keys keys,
                              Generator generator);

// ---- orthogonal_shard.cpp -----------------------------------------------------------------------

template <On on>
void orthogonal_shard_(const at::Tensor& self, double gain, at::IntArrayRef full_size,
                       at::IntArrayRef boxes, int64_t batch_dims, std::string_view method, Key key,
                       Generator generator);
// A part always made by orthogonal_part.h, for tests.
template <On on>
void orthogonal_by_rows_(const at::Tensor& self, double gain, at::IntArrayRef full_size,
                         at::IntArrayRef boxes, int64_t batch_dims, int64_t key);
// Steps of a matrix that several processes make together (orthogonal_part.h): sums over rows
// begin ... end of its longer side, which the processes add up; the reflectors that they give; and
// the parts of matrix `number` of the batch that are here.
template <On on>
void orthogonal_sums_(const at::Tensor& self, at::IntArrayRef matrix, int64_t number, int64_t begin,
                      int64_t end, int64_t key);
template <On on>
void orthogonal_reflect_(const at::Tensor& self, double gain, at::IntArrayRef matrix,
                         int64_t number, int64_t key);
template <On on>
void orthogonal_of_reflectors_(const at::Tensor& self, const at::Tensor& reflectors, double gain,
                               at::IntArrayRef full_size, at::IntArrayRef boxes, int64_t batch_dims,
                               int64_t number, int64_t key);

// ---- sparse.cpp ---------------------------------------------------------------------------------

template <On on>
void sparse_(const at::Tensor& self, double sparsity, double std, Key key, Generator generator);
template <On on>
void sparse_shard_(const at::Tensor& self, double sparsity, double std, at::IntArrayRef full_size,
                   at::IntArrayRef boxes, Key key, Generator generator);

}  // namespace fastinit::ops
