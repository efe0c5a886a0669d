// The threads that csrc/cpu works on: torch's, and in a forked child threads of our own, for the
// child inherits the state of OpenMP's pool but none of its threads and would wait for them
// forever.
#pragma once

#include "cpu/executor.h"

namespace fastinit::ops {

// As many workers as torch.get_num_threads(), one inside a parallel region.
cpu::ThreadPool torch_pool();

// For operators of ATen, which know no other threads than OpenMP's: in a forked child they run on
// one thread for the lifetime of the object. The pool keeps its size.
class SerialAfterFork {
 public:
  SerialAfterFork();
  ~SerialAfterFork();
  SerialAfterFork(const SerialAfterFork&) = delete;
  SerialAfterFork& operator=(const SerialAfterFork&) = delete;

 private:
  int threads_;  // before; 0 if nothing was changed
};

}  // namespace fastinit::ops
