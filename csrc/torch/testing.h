// What only tests ask for (testing.cpp).
#pragma once

namespace fastinit::ops {

// How many threads wrote something in the last fill on the CPU.
int last_fill_threads();

}  // namespace fastinit::ops
