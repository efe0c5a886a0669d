// Runs the executor over drawn layouts and compares all of memory, byte for byte, with elements
// placed one at a time: strided, permuted, misaligned and sharded tensors, alone and many in one
// call, on one thread and on several whose floating-point modes are hostile.
#include <cfenv>
#include <thread>

#include "tensors.h"

#if FASTINIT_X86_64
#include <xmmintrin.h>
#endif

namespace native {
namespace {

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
    tasks.push_back(
        bare_task(host::prepare_transform(Distribution::Uniform, dtype, args), Purpose::Value));
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
