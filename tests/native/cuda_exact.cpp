// What the device's square root and quotients rest on (core/from_estimate.h), for every estimate
// that the instruction set permits: rsqrt.approx errs by 2^-22.4 relative, rcp.approx by 2^-23.
#include <cmath>
#include <cstdio>
#include <initializer_list>

#include "core/elementary.h"
#include "core/from_estimate.h"
#include "core/lanes_scalar.h"

namespace {

using namespace fastinit;

float of(uint32_t bits) { return bit_cast<float>(bits); }
uint32_t bits(float x) { return bit_cast<uint32_t>(x); }

struct Interval {
  uint32_t low, high;  // bits of the least and greatest estimate
};
Interval around(double exact, double error) {
  return {bits(static_cast<float>(exact * (1 - error))),
          bits(static_cast<float>(exact * (1 + error)))};
}

int64_t wrong = 0, roots = 0, quotients = 0, fractions = 0;

void check_root(float x) {
  const float want = std::sqrt(x);
  const Interval y = around(1 / std::sqrt(static_cast<double>(x)), std::exp2(-22.4));
  for (uint32_t k = y.low; k <= y.high; ++k, ++roots)
    wrong += sqrt_from_estimate<ScalarF32>(x, of(k)) != want;
}

void check_quotient(float a, float b, uint32_t estimate) {
  wrong += bits(quotient_from_estimate<ScalarF32>(a, b, of(estimate))) != bits(a / b);
  ++quotients;
}

void check_fraction(float a, float b) {
  const Interval y = around(1 / static_cast<double>(b), std::exp2(-23));
  for (uint32_t k = y.low; k <= y.high; ++k, ++fractions)
    wrong += short_quotient_from_estimate<ScalarF32>(a, b, of(k)) != a / b;
}

// Every fraction of the central quantile, but for signs. Below 2^-15 it is the same fraction
// but for its scale.
void check_fractions() {
  using L = ScalarF32;
  for (uint32_t x = bits(0x1p-15f); x <= bits(0.425f); ++x) {
    const float d = of(x), r = L::negative_fma(d, d, 0.180625f);
    check_fraction(d * horner<L>(coef::kA32, r), horner<L>(coef::kB32, r));
  }
  for (uint32_t x = bits(1.5f); x <= bits(8); ++x) {
    const float near = of(x) - 1.6f, far = of(x) - 5;
    if (of(x) <= 5)
      check_fraction(horner<L>(coef::kC32, near), horner<L>(coef::kD32, near));
    else
      check_fraction(horner<L>(coef::kE32, far), horner<L>(coef::kF32, far));
  }
}

}  // namespace

int main() {
  // Two binades are all: a step scales with x as its result does. The ends of the range are checked
  // to be inside it.
  for (uint32_t x = bits(1); x < bits(4); ++x) check_root(of(x));
  for (const float scale : {0x1p-60f, 0x1p-34f, 0x1p58f})
    for (uint32_t x = bits(1); x < bits(4); x += 4099) check_root(of(x) * scale);
  for (const float zero : {0.0f, -0.0f})
    wrong += bits(sqrt_from_estimate<ScalarF32>(zero, 0x1p63f)) != bits(zero);

  // Reciprocals: correctly rounded.
  const uint32_t all_ones = bits(2) - 1;
  for (uint32_t b = bits(1); b <= all_ones; ++b) {
    const Interval y = around(1 / static_cast<double>(of(b)), std::exp2(-23));
    for (uint32_t k = y.low; k <= y.high; ++k)
      wrong += reciprocal_from_estimate<ScalarF32>(of(b), of(k)) != 1 / of(b);
  }
  // For the last of them, every numerator; elsewhere the theorem holds, and a sample is checked.
  const Interval y = around(1 / static_cast<double>(of(all_ones)), std::exp2(-23));
  for (uint32_t a = bits(1); a < bits(2); ++a)
    for (uint32_t k = y.low; k <= y.high; ++k) check_quotient(of(a), of(all_ones), k);
  uint32_t draw = 12345;
  for (int n = 0; n < 4000000; ++n) {
    draw = draw * 1664525u + 1013904223u;
    const uint32_t b = bits(1) | draw >> 9;
    draw = draw * 1664525u + 1013904223u;
    const float a = of((draw >> 31 << 31) | ((draw >> 23 & 63) + 96) << 23 | (draw & 0x7fffff));
    const Interval e = around(1 / static_cast<double>(of(b)), std::exp2(-23));
    check_quotient(a, of(b), e.low + draw % (e.high - e.low + 1));
  }
  for (const float zero : {0.0f, -0.0f}) {
    check_quotient(zero, 3.0f, bits(1.0f / 3));
    check_quotient(zero, -3.0f, bits(-1.0f / 3));
  }
  check_fractions();
  std::printf("square roots: %lld\nquotients: %lld\nfractions: %lld\nwrong: %lld\n",
              static_cast<long long>(roots), static_cast<long long>(quotients),
              static_cast<long long>(fractions), static_cast<long long>(wrong));
  return wrong == 0 ? 0 : 1;
}
