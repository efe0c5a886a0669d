// Runs the executor over drawn layouts and compares all of memory, byte for byte, with elements
// placed one at a time: strided, permuted, misaligned and sharded tensors, alone and many in one
// call, on one thread and on several whose floating-point modes are hostile.
#include <cfenv>
#include <thread>

#include "cases.h"
#include "core/layout.h"

#if FASTINIT_X86_64
#include <xmmintrin.h>
#endif

namespace native {
namespace {

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

Transform constant_of(int item) {
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
void place(const FillTask& task, const std::vector<Dim>& dims, size_t depth, char* at,
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

FillTask draw_task(Draws& draws, const std::vector<Case>& cases, std::string& name) {
  if (draws.one_in(6)) {
    const int item = 1 << draws.below(5);
    name = "constant of " + std::to_string(item) + " bytes";
    return bare_task(constant_of(item), Purpose::Value);
  }
  const Case& c = cases[draws.below(static_cast<int64_t>(cases.size()))];
  name = c.name;
  return c.task;
}

std::vector<int64_t> draw_shape(Draws& draws, int64_t most) {
  std::vector<int64_t> shape(draws.below(kMaxDims + 1));
  for (int64_t& size : shape) {
    size = draws.one_in(4) ? 1 + draws.below(most) : 1 + draws.below(most < 9 ? most : 9);
    if (draws.one_in(400)) size = 0;
    if (size > 0) most = most / size > 0 ? most / size : 1;
  }
  return shape;
}

enum class Order { Logical, Reversed, Shuffled };

// Memory for a tensor of this shape, and what it must hold afterwards.
Tensor make_tensor(Draws& draws, const FillTask& task, const std::vector<int64_t>& shape,
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

int spoiled = 0;  // workers that came back with another floating-point mode

// Modes for worker k: rounding in all directions and, on x86, flushed subnormals.
void hostile_mode(int k) {
  const int rounding[4] = {FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO, FE_TONEAREST};
  std::fesetround(rounding[k % 4]);
#if FASTINIT_X86_64
  _mm_setcsr(_mm_getcsr() | 0x8040);  // FTZ, DAZ
#endif
}

void usual_mode() {
  std::fesetround(FE_TONEAREST);
#if FASTINIT_X86_64
  _mm_setcsr(_mm_getcsr() & ~0x8040u);
#endif
}

int current_mode() {
  int mode = std::fegetround();
#if FASTINIT_X86_64
  mode |= static_cast<int>(_mm_getcsr() & 0x8040) << 16;
#endif
  return mode;
}

void run_on_threads(int workers, void (*body)(void*), void* context) {
  std::vector<int> bad(workers, 0);
  std::vector<std::thread> threads;
  for (int k = 0; k < workers; ++k)
    threads.emplace_back([&, k] {
      hostile_mode(k);
      const int before = current_mode();
      body(context);
      bad[k] = current_mode() != before;
    });
  for (std::thread& t : threads) t.join();
  for (int b : bad) spoiled += b;
}

void run_here(int, void (*body)(void*), void* context) { body(context); }

int check(const std::vector<Tensor>& tensors, const char* capability) {
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

int fill_and_check(std::vector<Tensor>& tensors, const cpu::ThreadPool& pool, int& threads) {
  std::vector<FillTask> tasks;
  for (const Tensor& t : tensors) tasks.push_back(t.task);
  const int used = cpu::execute(tasks.data(), tasks.size(), pool);
  threads = used > threads ? used : threads;
  return check(tensors, cpu::capability().name);
}

// Matrices of every element size: transposed ones that fill the scratch memory of a tile, and rows
// long enough to be written in place.
int run_matrices(Draws& draws, const cpu::ThreadPool& pool) {
  std::vector<FillTask> tasks;
  for (int item = 1; item <= 16; item *= 2)
    tasks.push_back(bare_task(constant_of(item), Purpose::Value));
  const double args[4] = {-1, 1, 0, 0};
  for (const DType dtype : {DType::F64, DType::F32, DType::BF16, DType::E5M2})
    tasks.push_back(bare_task(cpu::prepare_transform(Kind::Uniform, dtype, args), Purpose::Value));
  int wrong = 0, threads = 0;
  for (forced = 0; forced < static_cast<int>(cpu::capabilities().size()); ++forced) {
    for (const FillTask& task : tasks) {
      std::vector<Tensor> tensors;
      tensors.push_back(make_tensor(draws, task, {150, 803}, Order::Reversed));
      tensors.push_back(make_tensor(draws, task, {41, 605}, Order::Logical));
      for (Tensor& t : tensors)
        t.name = "matrix of " + std::to_string(task.transform.item_size) + " byte items" + t.name;
      wrong += fill_and_check(tensors, pool, threads);
    }
  }
  return wrong;
}

int run_all(Draws& draws, int calls, int most_tensors, int64_t most_elements,
            const cpu::ThreadPool& pool, int& threads) {
  const std::vector<Case> cases = random_cases();
  int wrong = 0;
  for (int call = 0; call < calls; ++call) {
    forced = call % static_cast<int>(cpu::capabilities().size());
    std::vector<Tensor> tensors;
    const int64_t count = 1 + draws.below(most_tensors);
    for (int64_t k = 0; k < count; ++k) {
      std::string name;
      const FillTask task = draw_task(draws, cases, name);
      const Order how = static_cast<Order>(draws.below(3));
      tensors.push_back(make_tensor(draws, task, draw_shape(draws, most_elements), how));
      tensors.back().name = name + tensors.back().name;
    }
    wrong += fill_and_check(tensors, pool, threads);
  }
  return wrong;
}

}  // namespace

int check_layouts() {
  Draws draws{2024};
  int threads = 0;
  const cpu::ThreadPool one{1, run_here};
  int wrong = run_all(draws, 2400, 1, 400, one, threads);
  wrong += run_all(draws, 30, 40, 400, one, threads);
  wrong += run_all(draws, 24, 1, 30000, one, threads);
  wrong += run_matrices(draws, one);
  std::printf("wrong tensors: %d\n", wrong);
  return wrong == 0 ? 0 : 1;
}

// Constants of a transform made under hostile modes equal those made under the usual one.
int wrong_transforms() {
  const std::vector<Case> usual = random_cases();
  const int before = current_mode();
  int wrong = 0;
  for (int k = 0; k < 4; ++k) {
    hostile_mode(k);
    const int mode = current_mode();
    const std::vector<Case> hostile = random_cases();
    spoiled += current_mode() != mode;
    for (size_t c = 0; c < usual.size(); ++c)
      wrong +=
          std::memcmp(&usual[c].task.transform, &hostile[c].task.transform, sizeof(Transform)) != 0;
  }
  usual_mode();
  return wrong + (current_mode() != before);
}

int check_threads() {
  Draws draws{77};
  int threads = 0;
  const cpu::ThreadPool seven{7, run_on_threads};
  const int wrong = run_all(draws, 12, 8, 30000, seven, threads);
  const int transforms = wrong_transforms();
  std::printf("most threads at work: %d\nwrong tensors: %d\n", threads, wrong);
  std::printf("wrong transforms: %d\nmodes not restored: %d\n", transforms, spoiled);
  return wrong == 0 && transforms == 0 && spoiled == 0 && threads > 1 ? 0 : 1;
}

}  // namespace native
