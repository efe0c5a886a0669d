// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011) and the derivation of keys. docs/stream.md, sections 1 and 2.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastinit {

constexpr uint32_t kStreamVersion = 1;
// Not zero, so that no counter of ours equals one of torch's or cuRAND's.
constexpr uint32_t kMagic = 0x46494E49u ^ kStreamVersion;

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

// What a block of words is for: the same (key, index) never serves two purposes.
enum class Purpose : uint32_t {
  Value = 0,
  Low = 1,
  Mask = 2,
  FoldInt = 3,
  FoldStr = 4,
  Split = 5,
  GeneratorCpu = 6,
  GeneratorCuda = 7,
};

struct Words4 {
  uint32_t w[4];
};

FASTINIT_HD FASTINIT_INLINE Words4 philox4x32(Words4 c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kPhiloxM0) * c.w[0];
    const uint64_t p1 = static_cast<uint64_t>(kPhiloxM1) * c.w[2];
    c = {{static_cast<uint32_t>(p1 >> 32) ^ c.w[1] ^ k0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ c.w[3] ^ k1, static_cast<uint32_t>(p0)}};
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return c;
}

// Ten rounds without what the constant parts of a counter decide: its third and fourth words (the
// purpose and kMagic) are fixed for a stream, its second for 2^32 blocks. What is left depends on
// the low word alone. `philox_block` returns the words of `block`.
struct PhiloxKeys {
  uint32_t k0[kPhiloxRounds], k1[kPhiloxRounds];
  uint32_t a, b, x;
};
struct PhiloxHigh {
  uint32_t c, e;
};

FASTINIT_HD FASTINIT_INLINE PhiloxKeys philox_keys(uint64_t key, Purpose purpose) {
  PhiloxKeys keys;
  keys.k0[0] = static_cast<uint32_t>(key);
  keys.k1[0] = static_cast<uint32_t>(key >> 32);
  for (int round = 1; round < kPhiloxRounds; ++round) {
    keys.k0[round] = keys.k0[round - 1] + kPhiloxW0;
    keys.k1[round] = keys.k1[round - 1] + kPhiloxW1;
  }
  const uint64_t p1 = static_cast<uint64_t>(kPhiloxM1) * static_cast<uint32_t>(purpose);
  keys.a = kMagic ^ keys.k1[0];
  keys.b = static_cast<uint32_t>(p1) ^ keys.k0[1];
  keys.x = static_cast<uint32_t>(p1 >> 32) ^ keys.k0[0];
  return keys;
}

FASTINIT_HD FASTINIT_INLINE PhiloxHigh philox_high(const PhiloxKeys& keys, uint32_t counter_high) {
  const uint64_t p0 = static_cast<uint64_t>(kPhiloxM0) * (keys.x ^ counter_high);
  return {static_cast<uint32_t>(p0 >> 32) ^ keys.k1[1], static_cast<uint32_t>(p0) ^ keys.k1[2]};
}

FASTINIT_HD FASTINIT_INLINE Words4 philox_block(const PhiloxKeys& keys, PhiloxHigh high,
                                                uint32_t counter_low) {
  uint64_t p0 = static_cast<uint64_t>(kPhiloxM0) * counter_low;
  uint64_t p1 = static_cast<uint64_t>(kPhiloxM1) * (static_cast<uint32_t>(p0 >> 32) ^ keys.a);
  uint32_t x0 = static_cast<uint32_t>(p1 >> 32) ^ keys.b, x1 = static_cast<uint32_t>(p1);
  uint32_t x2 = static_cast<uint32_t>(p0) ^ high.c, x3;
  p0 = static_cast<uint64_t>(kPhiloxM0) * x0;
  p1 = static_cast<uint64_t>(kPhiloxM1) * x2;
  x0 = static_cast<uint32_t>(p1 >> 32) ^ x1 ^ keys.k0[2];
  x1 = static_cast<uint32_t>(p1);
  x2 = static_cast<uint32_t>(p0 >> 32) ^ high.e;
  x3 = static_cast<uint32_t>(p0);
  for (int round = 3; round < kPhiloxRounds; ++round) {
    p0 = static_cast<uint64_t>(kPhiloxM0) * x0;
    p1 = static_cast<uint64_t>(kPhiloxM1) * x2;
    x0 = static_cast<uint32_t>(p1 >> 32) ^ x1 ^ keys.k0[round];
    x1 = static_cast<uint32_t>(p1);
    x2 = static_cast<uint32_t>(p0 >> 32) ^ x3 ^ keys.k1[round];
    x3 = static_cast<uint32_t>(p0);
  }
  return {{x0, x1, x2, x3}};
}

// Four words of block `n` of `key` under `purpose`.
FASTINIT_HD FASTINIT_INLINE Words4 block(uint64_t key, uint64_t n, Purpose purpose) {
  return philox4x32({{static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32),
                      static_cast<uint32_t>(purpose), kMagic}},
                    static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
}

// The key derived from `key` by `data`: its own stream for every (key, data, purpose).
FASTINIT_HD FASTINIT_INLINE uint64_t derive(uint64_t key, uint64_t data, Purpose purpose) {
  const Words4 b = block(key, data, purpose);
  return b.w[0] | static_cast<uint64_t>(b.w[1]) << 32;
}

}  // namespace fastinit
