#include "torch/thread_pool.h"

#include <ATen/Parallel.h>
#include <pthread.h>

#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace fastinit::ops {
namespace {

std::atomic<bool> forked{false};

const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

void run_on_torchs(int workers, void (*body)(void*), void* context) {
  at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) body(context);
  });
}

// Bodies share their work out by themselves, so fewer threads than asked for will do.
void run_on_own(int workers, void (*body)(void*), void* context) {
  std::vector<std::thread> threads;
  try {
    threads.reserve(static_cast<size_t>(workers));
    for (int k = 1; k < workers; ++k) threads.emplace_back(body, context);
  } catch (const std::system_error&) {  // the system has no more
  }
  body(context);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

cpu::ThreadPool torch_pool() {
  (void)registered;
  return {at::in_parallel_region() ? 1 : at::get_num_threads(),
          forked ? run_on_own : run_on_torchs};
}

SerialAfterFork::SerialAfterFork() : threads_(forked ? at::get_num_threads() : 0) {
  if (threads_ > 1) at::set_num_threads(1);
}

SerialAfterFork::~SerialAfterFork() {
  if (threads_ > 1) at::set_num_threads(threads_);
}

}  // namespace fastinit::ops
