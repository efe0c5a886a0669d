#include "torch/thread_pool.h"

#include <ATen/Parallel.h>
#include <pthread.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace fastinit::ops {
namespace {

std::atomic<bool> forked{false};
thread_local int threads_of_pool = 0;  // while SerialAfterFork hides them; otherwise 0

const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

void run_on_torchs(int workers, void (*body)(void*), void* context) {
  at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) body(context);
  });
}

// The first exception of any thread, for the one that waits for them.
class FirstException {
 public:
  void run(void (*body)(void*), void* context) {
    try {
      body(context);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (first_ == nullptr) first_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (first_ != nullptr) std::rethrow_exception(first_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

// Bodies share their work out by themselves, so fewer threads than asked for will do.
void run_on_own(int workers, void (*body)(void*), void* context) {
  FirstException exception;
  std::vector<std::thread> threads;
  try {
    threads.reserve(static_cast<size_t>(workers));
    for (int k = 1; k < workers; ++k) threads.emplace_back([&] { exception.run(body, context); });
  } catch (const std::exception&) {  // the system has no more
  }
  exception.run(body, context);
  for (std::thread& thread : threads) thread.join();
  exception.rethrow();
}

}  // namespace

cpu::ThreadPool torch_pool() {
  (void)registered;
  const int threads = threads_of_pool > 0 ? threads_of_pool : at::get_num_threads();
  return {at::in_parallel_region() ? 1 : threads, forked ? run_on_own : run_on_torchs};
}

SerialAfterFork::SerialAfterFork() : threads_(forked ? at::get_num_threads() : 0) {
  if (threads_ <= 1) return;
  threads_of_pool = threads_;
  at::set_num_threads(1);
}

SerialAfterFork::~SerialAfterFork() {
  if (threads_ <= 1) return;
  at::set_num_threads(threads_);
  threads_of_pool = 0;
}

}  // namespace fastinit::ops
