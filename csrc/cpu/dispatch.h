// Which processor capability generates: chosen once, forced by FASTINIT_CPU_CAPABILITY.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/macros.h"
#include "core/task.h"

namespace fastinit::cpu {

// Memory in strips of `bytes` bytes, `pitch` bytes apart; none where `bytes` is 0.
struct Strips {
  char* first;
  int64_t bytes, pitch;
};

// Elements first + r step ... first + r step + count - 1 of a task, in logical order, to contiguous
// memory at out + r pitch bytes, for each row r. `destination` is where they go from there.
struct Run {
  uint64_t first;
  int64_t count;
  int64_t rows;
  uint64_t step;
  int64_t pitch;
  Strips destination{};
};
using GenerateRun = void (*)(const FillTask& task, const Run& run, char* out);

// Small matrices (orthogonal.h), in float and in double.
struct Reflection;
using Reflect = void (*)(const Reflection& task);

namespace scalar {
void generate_run(const FillTask& task, const Run& run, char* out);
void reflect32(const Reflection& task);
void reflect64(const Reflection& task);
}  // namespace scalar
namespace avx2 {
void generate_run(const FillTask& task, const Run& run, char* out);
void reflect32(const Reflection& task);
void reflect64(const Reflection& task);
}  // namespace avx2
namespace avx512 {
void generate_run(const FillTask& task, const Run& run, char* out);
void reflect32(const Reflection& task);
void reflect64(const Reflection& task);
}  // namespace avx512

struct Capability {
  const char* name;
  GenerateRun generate;
  Reflect reflect32 = nullptr, reflect64 = nullptr;
};

// What this processor has, plainest first.
const std::vector<Capability>& capabilities();

// The one in use. Throws std::runtime_error when FASTINIT_CPU_CAPABILITY names one that is not
// there.
const Capability& capability();

}  // namespace fastinit::cpu
