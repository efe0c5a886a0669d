// Tensors of drawn layouts in memory of their own, and what that memory must hold after a fill:
// elements placed one at a time.
#pragma once

#include "cases.h"
#include "core/layout.h"

namespace native {

// A small generator of its own; the draws need no quality.
struct Draws {
  uint64_t state;
  uint64_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  bool one_in(int64_t n) { return below(n) == 0; }
};

struct Tensor {
  std::vector<char> memory, want;
  FillTask task;
  std::string name;
};

inline Transform constant_of(int item) {
  Transform t;
  std::memset(&t, 0, sizeof t);
  t.kind = Kind::Constant;
  t.dtype = DType::Bytes;
  t.item_size = static_cast<uint8_t>(item);
  for (int k = 0; k < item; ++k) t.pattern[k] = static_cast<uint8_t>(17 * k + 3);
  return t;
}

// Places every element of the (uncoalesced) dimensions into `want`: the scalar lanes make the words
// of one last-dimension row, and its elements are copied one by one.
inline void place(const FillTask& task, const std::vector<Dim>& dims, size_t depth, char* at,
                  uint64_t logical) {
  const size_t item = task.transform.item_size;
  const Dim d = depth < dims.size() ? dims[depth] : Dim{1, 1, 1};
  if (depth + 1 < dims.size()) {
    for (int64_t k = 0; k < d.size; ++k)
      place(task, dims, depth + 1, at + k * d.memory * static_cast<int64_t>(item),
            logical + static_cast<uint64_t>(k * d.logical));
    return;
  }
  std::vector<char> row(static_cast<size_t>(d.size) * item);
  if (task.transform.kind == Kind::Constant)
    for (int64_t k = 0; k < d.size; ++k) std::memcpy(&row[k * item], task.transform.pattern, item);
  else
    cpu::scalar::generate_run(task, {logical, d.size, 1, 0, 0}, row.data());
  for (int64_t k = 0; k < d.size; ++k) std::memcpy(at + k * d.memory * item, &row[k * item], item);
}

inline FillTask draw_task(Draws& draws, const std::vector<Case>& cases, std::string& name) {
  if (draws.one_in(6)) {
    const int item = 1 << draws.below(5);
    name = "constant of " + std::to_string(item) + " bytes";
    return bare_task(constant_of(item), Purpose::Value);
  }
  const Case& c = cases[draws.below(static_cast<int64_t>(cases.size()))];
  name = c.name;
  return c.task;
}

inline std::vector<int64_t> draw_shape(Draws& draws, int64_t most) {
  std::vector<int64_t> shape(draws.below(kMaxDims + 1));
  for (int64_t& size : shape) {
    size = draws.one_in(4) ? 1 + draws.below(most) : 1 + draws.below(most < 9 ? most : 9);
    if (draws.one_in(400)) size = 0;
    if (size > 0) most = most / size > 0 ? most / size : 1;
  }
  return shape;
}

// Channels: the last dimension but one is the fastest in memory.
enum class Order { Logical, Reversed, Shuffled, Channels };

// Memory for a tensor of this shape, and what it must hold afterwards.
inline Tensor make_tensor(Draws& draws, const FillTask& task, const std::vector<int64_t>& shape,
                          Order how) {
  Tensor t;
  t.task = task;
  t.task.key = draws.next();
  const int item = t.task.transform.item_size;
  const int ndim = static_cast<int>(shape.size());
  std::vector<Dim> dims(ndim);
  std::vector<int64_t> order(ndim);
  for (int k = 0; k < ndim; ++k) {
    dims[k].size = shape[k];
    order[k] = how == Order::Reversed ? ndim - 1 - k : k;
  }
  if (how == Order::Shuffled)
    for (int k = ndim - 1; k > 0; --k) std::swap(order[k], order[draws.below(k + 1)]);
  if (how == Order::Channels && ndim > 1) std::swap(order[ndim - 1], order[ndim - 2]);
  const bool gaps = draws.one_in(2);
  int64_t stride = gaps && draws.one_in(3) ? 1 + draws.below(3) : 1;
  for (int k = ndim - 1; k >= 0; --k) {
    Dim& d = dims[order[k]];
    d.memory = stride;
    stride *= d.size > 0 ? d.size : 1;
    if (gaps && draws.one_in(2)) stride += draws.below(7);
  }
  // Logic: a whole tensor, or a shard of a larger one.
  const bool shard = draws.one_in(3);
  int64_t logical = 1;
  uint64_t first = 0;
  for (int k = ndim - 1; k >= 0; --k) {
    dims[k].logical = logical;
    const int64_t before = shard ? draws.below(4) : 0, after = shard ? draws.below(4) : 0;
    first += static_cast<uint64_t>(before * logical);
    logical *= dims[k].size + before + after;
    if (logical == 0) logical = 1;
  }
  if (draws.one_in(3)) first += (uint64_t{4} << 32) - 1 - draws.below(200);
  t.task.layout.first = first;

  int64_t span = 1;
  bool empty = false;
  for (const Dim& d : dims) {
    span += (d.size - 1) * d.memory;
    empty |= d.size == 0;
  }
  // Guards in front; behind, the sanitizer's own.
  const size_t shift = static_cast<size_t>(draws.below(64));
  t.memory.assign(shift + (empty ? 0 : static_cast<size_t>(span) * item), '\x5a');
  t.want = t.memory;
  if (!empty) place(t.task, dims, 0, t.want.data() + shift, first);
  t.task.data = t.memory.data() + shift;
  t.task.layout.ndim = empty ? 1 : coalesce(dims.data(), ndim);
  if (empty)
    t.task.layout.dims[0] = {0, 1, 1};
  else
    std::copy(dims.begin(), dims.begin() + t.task.layout.ndim, t.task.layout.dims);
  t.name = ", " + std::to_string(ndim) + " dimensions" + (shard ? ", shard" : "");
  return t;
}

inline int check(const std::vector<Tensor>& tensors, const char* capability) {
  int wrong = 0;
  for (const Tensor& t : tensors) {
    if (t.memory == t.want) continue;
    size_t at = 0;
    while (t.memory[at] == t.want[at]) ++at;
    std::printf("%s, %s: byte %zu of %zu\n", capability, t.name.c_str(), at, t.want.size());
    ++wrong;
  }
  return wrong;
}

}  // namespace native
