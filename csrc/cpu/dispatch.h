// Which processor capability generates: chosen once, forced by FASTINIT_CPU_CAPABILITY.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/macros.h"
#include "core/task.h"

namespace fastinit::cpu {

// Memory in rows of `bytes` bytes, `pitch` bytes apart; none where `bytes` is 0.
struct MemoryRows {
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
  MemoryRows destination{};
};
using GenerateRun = void (*)(const FillTask& task, const Run& run, char* out);

// Small matrices (orthogonal.h), in float and in double.
struct Reflection;
using Reflect = void (*)(const Reflection& task);

// What sparse.cpp knows of an element before its column is settled.
constexpr uint8_t kZero = 1, kCandidate = 2;

// What a capability brings: each function is compiled for it, in its namespace.
#define FASTINIT_CAPABILITY_FUNCTIONS                                                             \
  void generate_run(const FillTask& task, const Run& run, char* out);                             \
  void reflect32(const Reflection& task);                                                         \
  void reflect64(const Reflection& task);                                                         \
  double squares_of_run(const float* x, int64_t n);                                               \
  void squares_of_rows(const float* x, int64_t rows, int64_t pitch, int64_t n, double* sums);     \
  void mark_words(const uint32_t* words, int64_t n, uint64_t low, uint64_t high, uint8_t* marks); \
  void count_zeros(const uint8_t* marks, int64_t rows, int64_t cols, uint8_t* sums,               \
                   int64_t* zeros);                                                               \
  void zero_row32(const uint8_t* marks, int64_t cols, uint32_t* to);
namespace scalar {
FASTINIT_CAPABILITY_FUNCTIONS
}
namespace avx2 {
FASTINIT_CAPABILITY_FUNCTIONS
}
namespace avx512 {
FASTINIT_CAPABILITY_FUNCTIONS
}
#undef FASTINIT_CAPABILITY_FUNCTIONS

struct Capability {
  const char* name;
  GenerateRun generate;
  Reflect reflect32 = nullptr, reflect64 = nullptr;
  // Sums of squares in double, of a run and of the columns of rows `pitch` apart.
  double (*squares_of_run)(const float*, int64_t) = nullptr;
  void (*squares_of_rows)(const float*, int64_t, int64_t, int64_t, double*) = nullptr;
  // kZero for words below `low`, kCandidate for those below `high`.
  void (*mark_words)(const uint32_t*, int64_t, uint64_t low, uint64_t high, uint8_t*) = nullptr;
  // Adds the marks kZero of `rows` rows, at most 255, to the counts.
  void (*count_zeros)(const uint8_t*, int64_t rows, int64_t cols, uint8_t*, int64_t*) = nullptr;
  // Zeroes the elements of a row that are marked kZero.
  void (*zero_row32)(const uint8_t*, int64_t cols, uint32_t*) = nullptr;
};

// A row of the table: all functions of the capability of this name.
#define FASTINIT_CAPABILITY(name) \
  {#name,                         \
   name::generate_run,            \
   name::reflect32,               \
   name::reflect64,               \
   name::squares_of_run,          \
   name::squares_of_rows,         \
   name::mark_words,              \
   name::count_zeros,             \
   name::zero_row32}

// What this processor has, plainest first.
const std::vector<Capability>& capabilities();

// The one in use. Throws std::runtime_error when FASTINIT_CPU_CAPABILITY names none of them.
const Capability& capability();

}  // namespace fastinit::cpu
