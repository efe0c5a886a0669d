// The kernels of csrc/cuda compiled as C++ (cuda_shim.h), for tests/test_cuda_host.py:
// cuda_host lengths|layouts|channels|many|far|clamps|orthogonal. All memory of a fill is compared,
// byte for byte, with elements that the CPU's scalar lanes made.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>

#include "cuda/executor.h"
#include "cuda/functors.cuh"
#include "cuda/tiling.h"
#include "cuda_shim.h"
#include "tensors.h"

namespace native {
int check_orthogonal();  // cuda_orthogonal.cpp
namespace {

// Fills the tasks, by table or by value; the table is exactly as large as it was said to be.
int run(const std::vector<FillTask>& tasks, bool by_table) {
  const size_t bytes = by_table ? cuda::table_bytes(tasks.data(), tasks.size()) : 0;
  std::vector<char> host(bytes), device(bytes);
  const int error =
      cuda::execute(tasks.data(), tasks.size(), nullptr, {host.data(), device.data(), bytes});
  if (error != 0) std::printf("execute: %s\n", cuda::error_text(error));
  return error != 0;
}

std::vector<FillTask> tasks_of(const std::vector<Tensor>& tensors) {
  std::vector<FillTask> tasks;
  for (const Tensor& t : tensors) tasks.push_back(t.task);
  return tasks;
}

// One contiguous tensor between guards.
Tensor contiguous(const Case& c, int64_t length, size_t shift, uint64_t first) {
  Tensor t;
  t.task = c.task;
  t.name = c.name + ", length " + std::to_string(length) + ", shift " + std::to_string(shift);
  const size_t item = c.task.transform.item_size;
  // The start is aligned to 64, so that the shift is the misalignment.
  t.memory.assign(64 + shift + static_cast<size_t>(length) * item, '\x5a');
  const size_t start = (64 - reinterpret_cast<uintptr_t>(t.memory.data()) % 64) % 64 + shift;
  t.task.layout.first = first;
  t.task.layout.ndim = length == 1 ? 0 : 1;
  t.task.layout.dims[0] = {length, 1, 1};
  t.task.data = t.memory.data() + start;
  t.want = t.memory;
  if (length > 0) place(t.task, {{length, 1, 1}}, 0, t.want.data() + start, first);
  return t;
}

std::vector<Case> all_cases() {
  std::vector<Case> cases = random_cases();
  for (int item = 1; item <= 16; item *= 2)
    cases.push_back(
        {"constant of " + std::to_string(item), bare_task(constant_of(item), Purpose::Value)});
  return cases;
}

// One case of each kind and type, for tests that cross many other things.
std::vector<Case> few_cases() {
  std::vector<Case> few;
  for (const Case& c : all_cases()) {
    const Transform& t = c.task.transform;
    const bool seen = std::any_of(few.begin(), few.end(), [&](const Case& other) {
      const Transform& o = other.task.transform;
      return o.kind == t.kind && o.dtype == t.dtype && o.item_size == t.item_size &&
             o.clamped == t.clamped;
    });
    if (!seen) few.push_back(c);
  }
  return few;
}

int wrong = 0, fills = 0;

void fill(std::vector<Tensor> tensors, bool by_table) {
  wrong += run(tasks_of(tensors), by_table);
  wrong += check(tensors, by_table ? "table" : "value");
  fills += static_cast<int>(tensors.size());
}

void fill_one(Tensor tensor, bool by_table) {
  std::vector<Tensor> one;
  one.push_back(std::move(tensor));  // moved: a task points into its tensor's memory
  fill(std::move(one), by_table);
}

// Every length up to a few vectors and around tiles, every misalignment, every phase of the stream.
void check_lengths() {
  Draws draws{7};
  const std::vector<Case> cases = few_cases();
  const uint64_t firsts[] = {
      0, 1, 2, 3, 4096 + 2, (uint64_t{4} << 32) - 37, (uint64_t{1} << 61) + 5};
  for (const Case& c : cases) {
    const size_t item = c.task.transform.item_size;
    for (int64_t length = 0; length < 70; ++length) {
      const uint64_t first = firsts[draws.below(7)];
      const size_t shift = length % 3 == 0 ? static_cast<size_t>(draws.below(32))
                                           : static_cast<size_t>(draws.below(16)) * item % 64;
      fill_one(contiguous(c, length, shift, first), false);
    }
    for (size_t shift = 0; shift < 16; ++shift)
      fill_one(contiguous(c, 53, shift, firsts[shift % 7]), false);
    // Around tiles of one vector a thread, and of a whole round, as a single multiprocessor has.
    const int64_t vec_size = std::max<int64_t>(16 / static_cast<int64_t>(item), 1);
    const int64_t small = cuda::kSmallTileSize * vec_size, full = 8 * cuda::kRoundSize * vec_size;
    for (const int64_t length : {small - 1, 5 * small + 5, full + 3})
      for (const uint64_t first : {uint64_t{0}, (uint64_t{4} << 32) - 4096}) {
        shim::multiprocessors = length < full ? 100 : 1;
        const size_t shift = draws.one_in(2) ? 0 : item * static_cast<size_t>(draws.below(4));
        fill_one(contiguous(c, length, shift, first), false);
      }
    // And of several rounds.
    const Kind kind = c.task.transform.kind;
    if (kind == Kind::Uniform || kind == Kind::Central || kind == Kind::Constant)
      fill_one(contiguous(c, 4 * full + 77 * vec_size + 1, item, 5), false);
    shim::multiprocessors = 3;
  }
}

void check_layouts() {
  Draws draws{99};
  const std::vector<Case> cases = all_cases();
  for (int call = 0; call < 900; ++call) {
    const bool large = call % 30 == 0;
    shim::multiprocessors = large ? 1 : 1 + static_cast<int>(draws.below(4));
    std::vector<Tensor> tensors;
    const int64_t count = large ? 1 : 1 + draws.below(9);
    for (int64_t k = 0; k < count; ++k) {
      std::string name;
      const FillTask task = draw_task(draws, cases, name);
      const Order how = static_cast<Order>(draws.below(3));
      tensors.push_back(make_tensor(draws, task, draw_shape(draws, large ? 30000 : 300), how));
      tensors.back().name = name + tensors.back().name;
    }
    fill(std::move(tensors), draws.one_in(2));
  }
  // Long rows: contiguous ones with gaps and in shards, and transposed ones.
  for (const Case& c : few_cases())
    for (const Order how : {Order::Logical, Order::Reversed})
      for (int repeat = 0; repeat < 2; ++repeat) {
        const int64_t length = 2 * 256 * 16 / c.task.transform.item_size + 1 + draws.below(3000);
        Tensor t = make_tensor(draws, c.task, {3, 1 + draws.below(3), length}, how);
        t.name = c.name + ", rows" + t.name;
        fill_one(std::move(t), draws.one_in(2));
      }
}

// Convolutions' weights in channels_last, and shards of them: alone, by value and by table.
void check_channels() {
  Draws draws{17};
  int of_channels = 0;
  const auto is_of_channels = [](const Tensor& t) {
    return cuda::tile_task(t.task, 1024).access == cuda::Access::Channels;
  };
  const auto draw = [&](const Case& c) {
    const int64_t elements = draws.one_in(4) ? 2 + draws.below(140) : 2 + draws.below(26);
    const int64_t channels = draws.one_in(3) ? 28 + draws.below(40) : 28 + draws.below(700);
    Tensor t =
        make_tensor(draws, c.task, {1 + draws.below(4), channels, elements}, Order::Channels);
    t.name = c.name + ", " + std::to_string(channels) + " channels of " + std::to_string(elements) +
             t.name;
    of_channels += is_of_channels(t);
    return t;
  };
  for (const Case& c : few_cases())
    for (int repeat = 0; repeat < 12; ++repeat) {
      shim::multiprocessors = 1 + static_cast<int>(draws.below(4));
      fill_one(draw(c), draws.one_in(3));
    }
  const std::vector<Case> cases = all_cases();
  for (int list = 0; list < 40; ++list) {
    std::vector<Tensor> tensors;
    for (int64_t k = 1 + draws.below(9); k > 0; --k) {
      std::string name;
      const FillTask task = draw_task(draws, cases, name);
      if (draws.one_in(2))
        tensors.push_back(draw({name, task}));
      else
        tensors.push_back(make_tensor(draws, task, draw_shape(draws, 3000), Order::Shuffled));
    }
    fill(std::move(tensors), draws.one_in(2));
  }
  // More tiles than thread blocks, and tiles that are as full as they may be, at a phase.
  shim::multiprocessors = 1;
  for (const Case& c : few_cases()) {
    if (c.task.transform.kind == Kind::Constant) continue;
    const int64_t room = cuda::kChannelBytes / c.task.transform.item_size;
    // All lanes would read from one bank.
    wrong += is_of_channels(make_tensor(draws, c.task, {2, 50, room / 128}, Order::Channels));
    const std::vector<int64_t> many{9, 97, room / 32 - 1}, full{room, 2};
    for (const auto& shape : {many, full}) {
      if (shape == many && c.task.transform.kind != Kind::Uniform) continue;  // it takes long
      std::vector<Tensor> tensors;
      do {
        tensors.clear();
        tensors.push_back(make_tensor(draws, c.task, shape, Order::Channels));
      } while (shape.size() == 2 && tensors[0].task.layout.first % 4 == 0);
      tensors[0].name = c.name + ", large" + tensors[0].name;
      const bool list = draws.one_in(2);
      if (list) tensors.push_back(draw(c));
      fill(std::move(tensors), list);
    }
  }
  shim::multiprocessors = 3;
  std::printf("of channels: %d\n", of_channels);
}

// Tens of thousands of tasks of all kinds and types, empty ones among them, in one launch.
void check_many() {
  Draws draws{3};
  const std::vector<Case> cases = all_cases();
  std::vector<Tensor> tensors;
  for (int k = 0; k < 20000; ++k) {
    std::string name;
    FillTask task = draw_task(draws, cases, name);
    const int64_t most = draws.one_in(500) ? 9000 : 40;
    tensors.push_back(
        make_tensor(draws, task, draw_shape(draws, most), static_cast<Order>(draws.below(3))));
    if (draws.one_in(9)) tensors.back() = contiguous({name, task}, 0, 0, 0);
    tensors.back().name = name + tensors.back().name;
  }
  shim::multiprocessors = 132;
  shim::launches = 0;
  fill(std::move(tensors), true);
  std::printf("launches: %d\n", shim::launches);
}

// Positions beyond 2^31 and 2^32 elements of memory that is never touched elsewhere: only the
// blocks around them run, one tile each.
void check_far() {
  const auto case_of = [](Distribution distribution, DType dtype, double a, double b) {
    const double args[4] = {a, b, 0, 0};
    return bare_task(host::prepare_transform(distribution, dtype, args), Purpose::Value);
  };
  const int64_t bytes = int64_t{9} << 30;
  void* const memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::printf("no address space\n");
    ++wrong;
    return;
  }
  struct Shape {
    FillTask task;
    int64_t size, stride;
    int64_t elements = 1;  // of a channel; as many channels as the size says
  };
  const FillTask byte = case_of(Distribution::Normal, DType::E5M2, 0, 1);
  const FillTask word = case_of(Distribution::Uniform, DType::F32, -1, 1);
  const Shape shapes[] = {{byte, (int64_t{1} << 33) + 4321, 1},
                          {word, (int64_t{1} << 31) + 12345, 1},
                          {byte, (int64_t{1} << 32) + 99, 2},
                          {byte, (int64_t{1} << 32) + 43210, 1, 2},
                          {bare_task(constant_of(1), Purpose::Value), (int64_t{1} << 33) + 77, 1}};
  for (const bool list : {false, true}) {
    for (const Shape& s : shapes) {
      FillTask task = s.task;
      const int64_t item = task.transform.item_size;
      task.data = static_cast<char*>(memory);
      task.layout.ndim = s.elements > 1 ? 2 : 1;
      task.layout.dims[0] = {s.size, s.stride, s.elements};
      task.layout.dims[1] = {s.elements, s.size, 1};
      task.layout.first = (uint64_t{4} << 32) - (uint64_t{1} << 31) + 1;  // crosses 2^34
      FillTask second = word;                                             // makes a list of it
      std::vector<char> small(64);
      second.data = small.data();
      second.layout.ndim = 0;
      // So many thread blocks that each has one tile: of one vector or segment a thread, or once of
      // eight rounds.
      const bool large = !list && s.stride == 1 && s.elements == 1;
      const int64_t elements = s.stride > 1 ? 4 : 16 / item;
      int64_t tile = (large ? cuda::kLargeTileSize : cuda::kSmallTileSize) * elements;
      if (s.elements > 1) tile = cuda::tile_task(task, 0).tile_size;
      shim::multiprocessors = large ? 1 << 12 : 1 << 18;
      const int64_t positions[] = {0, int64_t{1} << 31, (int64_t{1} << 31) + (int64_t{1} << 30),
                                   int64_t{1} << 32, s.size - 1};
      shim::only_block = [&](unsigned block) {
        for (const int64_t p : positions)
          if (p < s.size && std::abs(static_cast<int64_t>(block) - p / tile) <= 1) return true;
        return false;
      };
      std::vector<FillTask> tasks{task};
      if (list) tasks.push_back(second);
      wrong += run(tasks, list);
      shim::only_block = nullptr;
      for (const int64_t p : positions) {
        if (p >= s.size) continue;
        const int64_t from = std::max<int64_t>(0, p - 50), to = std::min(s.size, p + 50);
        for (int64_t i = from * s.elements; i < to * s.elements; ++i) {
          char want[16];
          FillTask one = task;
          place(one, {}, 0, want, task.layout.first + static_cast<uint64_t>(i));
          const int64_t at = i / s.elements * s.stride + i % s.elements * s.size;
          if (std::memcmp(task.data + at * item, want, static_cast<size_t>(item)) != 0) {
            std::printf("element %lld of %lld, items of %lld, stride %lld, %s\n",
                        static_cast<long long>(i), static_cast<long long>(s.size * s.elements),
                        static_cast<long long>(item), static_cast<long long>(s.stride),
                        list ? "list" : "single");
            ++wrong;
            break;
          }
        }
        ++fills;
      }
      madvise(memory, static_cast<size_t>(bytes), MADV_DONTNEED);
    }
  }
  munmap(memory, static_cast<size_t>(bytes));
}

// Clamping pairs of 16 bits is rounding clamped samples: for every value of the type, what lies
// between it and the next one, and bounds at and around zero and at the ends.
template <DType dtype>
void check_pairs() {
  const auto rounded = [](float x) { return cuda::pack16<dtype>(x, x) & 0xffffu; };
  const auto value = [](uint32_t bits) {
    if (dtype == DType::BF16) return bit_cast<float>(bits << 16);
    const uint32_t magnitude = bits & 0x7fffu;
    float x;  // subnormal, too: by way of a product
    x = bit_cast<float>(magnitude << 13) * 0x1p112f;
    return bits & 0x8000u ? -x : x;
  };
  const uint32_t most = dtype == DType::BF16 ? 0x7f7f : 0x7bff;
  std::vector<uint32_t> bounds;
  for (const uint32_t magnitude : {1u, 2u, 0x3ffu, 0x1234u, 0x3c00u, most - 1, most})
    bounds.insert(bounds.end(), {magnitude, magnitude | 0x8000u});
  bounds.push_back(0);  // there is no bound of -0 (params.h)
  for (const uint32_t lo : bounds)
    for (const uint32_t hi : bounds) {
      TransformArgs<float> args{};
      args.lo = value(lo);
      args.hi = value(hi);
      if (!(args.lo < args.hi)) continue;
      for (uint32_t bits = 0; bits < 0x10000u; bits += lo % 3 == 0 ? 1 : 5) {
        if ((bits & 0x7fffu) >= most) continue;
        const float x = value(bits), next = value(bits + 1);
        const float between[] = {x, std::nextafter(x, next), x + (next - x) / 2,
                                 std::nextafter(x + (next - x) / 2, next)};
        for (const float y : between) {
          if (bit_cast<uint32_t>(y) == 0x80000000u && lo == 0) continue;  // may_clamp_negative_zero
          const uint32_t want = rounded(clamp<ScalarF32>(args, y));
          const uint32_t pair = cuda::pack16<dtype>(y, 0.0f);
          const uint32_t got =
              cuda::clamp_pair<dtype>(pair, lo | lo << 16, hi | hi << 16) & 0xffffu;
          wrong += got != want;
          ++fills;
        }
      }
    }
}

// A sample of -0 above a bound of +0 stays: such tasks are known.
void check_zeros() {
  const struct {
    Distribution distribution;
    double args[4];
  } tasks[] = {{Distribution::Uniform, {-0x1p-149, 0x1.8p-133, 0, 0}},
               {Distribution::Uniform, {-0x1p-149, 0x1p-110, 0, 0}},
               {Distribution::Uniform, {-1e-8, 6e-7, 0, 0}},
               {Distribution::Uniform, {0, 1, 0, 0}},
               {Distribution::TruncNormal, {0x1p-147, 0x1p-131, 0, 0x1p-130}},
               {Distribution::TruncNormal, {0, 1, 0, 2}}};
  int zeros = 0;
  for (const auto& task : tasks)
    for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
      const Transform t = host::prepare_transform(task.distribution, dtype, task.args);
      if (t.kind == Kind::Constant || t.f32.lo != 0 || !t.clamped) continue;
      for (uint32_t k = 0; k < 1u << 16; ++k) {
        const float x = t.kind == Kind::Uniform ? uniform<ScalarF32>(t.f32, k << 8, 0)
                                                : trunc_normal_central<ScalarF32>(t.f32, k, 0);
        if (bit_cast<uint32_t>(x) != 0x80000000u) continue;
        ++zeros;
        wrong += !cuda::may_clamp_negative_zero(t);
      }
      wrong += task.args[3] == 2 &&
               cuda::may_clamp_negative_zero(t);  // what is usual is not such a task
    }
  wrong += zeros == 0;
  const Case tiny{
      "zeros", bare_task(host::prepare_transform(Distribution::Uniform, DType::BF16, tasks[0].args),
                         Purpose::Value)};
  Tensor many = contiguous(tiny, 1 << 20, 0, 0);
  wrong += std::count(many.want.begin(), many.want.end(), '\x80') == 0;
  std::vector<Tensor> list;
  list.push_back(many);
  list.push_back(contiguous(tiny, 5, 0, 0));
  list[0].task.data = list[0].memory.data() + (many.task.data - many.memory.data());
  fill(std::move(list), true);
  fill_one(std::move(many), false);
}

void check_clamps() {
  check_pairs<DType::F16>();
  check_pairs<DType::BF16>();
  check_zeros();
}

}  // namespace
}  // namespace native

int main(int argc, char** argv) {
  using namespace native;
  const std::string what = argc == 2 ? argv[1] : "";
  if (what == "lengths")
    check_lengths();
  else if (what == "layouts")
    check_layouts();
  else if (what == "channels")
    check_channels();
  else if (what == "many")
    check_many();
  else if (what == "far")
    check_far();
  else if (what == "clamps")
    check_clamps();
  else if (what == "orthogonal")
    return check_orthogonal();
  else
    return 2;
  std::printf("fills: %d\nwrong: %d\n", fills, wrong);
  return wrong == 0 ? 0 : 1;
}
