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
