#include "torch/full_precision.h"

#include <pthread.h>

#include <mutex>
#include <new>

namespace fastinit::ops {
namespace {

using at::Float32Backend;
using at::Float32Op;
using at::Float32Precision;

// From the most general setting to the one that products on the CPU ask for.
struct Level {
  Float32Backend backend;
  Float32Op op;
};
constexpr Level kGeneric{Float32Backend::GENERIC, Float32Op::ALL};
constexpr Level kCpu{Float32Backend::MKLDNN, Float32Op::ALL};
constexpr Level kProducts{Float32Backend::MKLDNN, Float32Op::MATMUL};

std::mutex mutex;
int users = 0;
bool changed = false;
Level level;
Float32Precision saved;

Float32Precision get(Level at) { return at::globalContext().float32Precision(at.backend, at.op); }

void set(Level at, Float32Precision precision) {
  at::globalContext().setFloat32Precision(at.backend, at.op, precision);
}

bool reduced(Level at) {
  return get(at) == Float32Precision::TF32 || get(at) == Float32Precision::BF16;
}

// Whether products are exact with this level set so; otherwise puts it back.
bool exclude_at(Level at) {
  level = at;
  saved = get(at);
  set(at, Float32Precision::IEEE);
  changed = !reduced(kProducts);
  if (!changed) set(at, saved);
  return changed;
}

void exclude() {
  // What a level returns may be that of the level above it, which only changing that shows.
  if (!reduced(kProducts) || exclude_at(kGeneric)) return;
  const auto generic = get(kGeneric);
  set(kGeneric, Float32Precision::IEEE);
  const bool own = reduced(kCpu);
  set(kGeneric, generic);
  if (own && exclude_at(kCpu)) return;
  exclude_at(kProducts);
}

}  // namespace

namespace {

// A child that is forked while a thread is in here inherits its state, but not the thread.
void forget_other_threads() {
  new (&mutex) std::mutex;
  if (users > 0 && changed) set(level, saved);
  users = 0;
  changed = false;
}

const int registered = pthread_atfork(nullptr, nullptr, forget_other_threads);

}  // namespace

FullPrecisionOnCpu::FullPrecisionOnCpu() {
  (void)registered;
  const std::lock_guard<std::mutex> lock(mutex);
  if (users++ == 0) exclude();
}

FullPrecisionOnCpu::~FullPrecisionOnCpu() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (--users > 0 || !changed) return;
  set(level, saved);
  changed = false;
}

}  // namespace fastinit::ops
