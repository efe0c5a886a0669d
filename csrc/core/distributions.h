// The distributions, one row each. From this table come the operators that fill with them, their
// schemas and their kernels for every dispatch key, the codes of fill_many_ and its messages, and
// what the extension tells Python. CONTRIBUTING.md has the recipe for another one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/macros.h"

namespace fastinit {

// The values are the codes of fill_many_: a new one goes to the end.
enum class Distribution : uint8_t { Constant, Uniform, Normal, TruncNormal, Words };

// Which tensors a distribution fills.
enum class Tensors : uint8_t {
  Any,      // with bytes that torch chooses
  Int32,    // with words of the stream
  Real,     // of floating types
  Complex,  // also complex ones, each part a sample of its own
};

struct Argument {
  const char* name;
  double value;  // by default
};

constexpr int kMaxArguments = 4;

struct DistributionRow {
  Distribution distribution;
  const char* name;  // of its operator
  Tensors tensors;
  int argument_count;
  Argument arguments[kMaxArguments];
  // The argument whose square the two parts of a complex element share; -1: they share none.
  int shared_scale = -1;
};

constexpr DistributionRow kDistributions[] = {
    {Distribution::Constant, "constant_", Tensors::Any, 1, {{"value", 0}}},
    {Distribution::Uniform, "uniform_", Tensors::Complex, 2, {{"a", 0}, {"b", 1}}},
    {Distribution::Normal, "normal_", Tensors::Complex, 2, {{"mean", 0}, {"std", 1}}, 1},
    {Distribution::TruncNormal,
     "trunc_normal_",
     Tensors::Real,
     4,
     {{"mean", 0}, {"std", 1}, {"a", -2}, {"b", 2}}},
    {Distribution::Words, "random_words_", Tensors::Int32, 0, {}},
};
constexpr size_t kDistributionCount = sizeof kDistributions / sizeof kDistributions[0];

constexpr const DistributionRow& row_of(Distribution distribution) {
  return kDistributions[static_cast<size_t>(distribution)];
}

constexpr bool rows_are_in_order() {
  for (size_t k = 0; k < kDistributionCount; ++k)
    if (static_cast<size_t>(kDistributions[k].distribution) != k) return false;
  return true;
}
static_assert(rows_are_in_order(), "a row's place is its code");

// The transforms from words to samples (transforms.h), each of one distribution; the truncated
// normal has four (docs/stream.md, 6). Executors make their cases from this list.
#define FASTINIT_SAMPLE_KINDS(X) X(Uniform) X(Normal) X(Narrow) X(Central) X(Tail) X(Far)

// What is made of the words.
enum class Kind : uint8_t {
  Constant,
  Words,
#define FASTINIT_ENUMERATOR(kind) kind,
  FASTINIT_SAMPLE_KINDS(FASTINIT_ENUMERATOR)
#undef FASTINIT_ENUMERATOR
};

constexpr int kNarrowDegree32 = 8, kNarrowDegree64 = 16;

// Constants of a transform in the type it computes in. Mirrored branches set `flip` to complement
// the words and carry a negated std.
template <class Real>
struct TransformArgs {
  Real lo, hi;
  union {
    struct {
      Real scale, shift, unit;  // unit: scale / 2^24, float only
    } uniform;
    struct {
      Real mean, std;
    } normal;
    struct {
      Real c[kNarrowDegree64 + 1], width, a;
    } narrow;
    struct {
      Real p_a, q_b, d, h_a, h_b, mean, std;
    } central;
    struct {
      Real rho, omega, lambda, mean, std;
    } tail;
    struct {
      Real rho, omega, c1, c2, a, std, alpha, inv_alpha, y0, l, l1;
    } far;
  };
  uint32_t flip;
};

}  // namespace fastinit
