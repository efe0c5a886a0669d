// FillTask: the one unit of work. A call is a list of these, whatever the device.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/layout.h"
#include "core/philox.h"

namespace fastinit {

// What is made of the words. The truncated normal is one of its four branches (docs/stream.md, 6).
enum class Kind : uint8_t { Constant, Words, Uniform, Normal, Narrow, Central, Tail, Far };

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

struct Transform {
  Kind kind;
  DType dtype;
  uint8_t item_size;  // bytes of one element in memory
  bool clamped;       // false where no sample can leave [lo, hi]
  union {
    TransformArgs<float> f32;
    TransformArgs<double> f64;
    uint8_t pattern[16];  // Constant: the bytes of one element
  };
};

struct FillTask {
  char* data;
  Layout layout;
  Transform transform;
  uint64_t key;
  Purpose purpose;
};

}  // namespace fastinit
