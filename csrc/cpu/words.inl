// Words of the stream, many blocks at a time: the first phase of every fill (fill_kernel.inl).

// What Philox needs besides the low counter word, for one key, purpose and high counter word: the
// round keys, and all that the constant three quarters of the counter contribute to rounds 0 to 2.
struct PhiloxVectors {
  Lanes::V k0[kPhiloxRounds], k1[kPhiloxRounds];
  Lanes::V a, b, c, e, last;

  PhiloxVectors(uint64_t key, Purpose purpose, uint32_t counter_high) {
    const PhiloxKeys keys = philox_keys(key, purpose);
    const PhiloxHigh folded = philox_high(keys, counter_high);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      k0[round] = Lanes::vset(keys.k0[round]);
      k1[round] = Lanes::vset(keys.k1[round]);
    }
    last = Lanes::vkeys(keys.k0[kPhiloxRounds - 1], keys.k1[kPhiloxRounds - 1]);
    a = Lanes::vset(keys.a);
    b = Lanes::vset(keys.b);
    c = Lanes::vset(folded.c);
    e = Lanes::vset(folded.e);
  }
};

// Lines to prefetch: on and on from an address,
struct PrefetchOnward {
  const char* next;

  FASTINIT_INLINE void ask(int bytes) {
    for (int k = 0; k < bytes; k += 64) __builtin_prefetch(next + k, 1);
    next += bytes;
  }
};

// or along rows, from one to the next.
struct PrefetchRows {
  MemoryRows rows;
  const char *next, *end;

  explicit PrefetchRows(const MemoryRows& given)
      : rows(given), next(rows.first), end(rows.first + rows.bytes) {}

  FASTINIT_INLINE void ask(int bytes) {
    for (; bytes > 0; bytes -= 64) {
      __builtin_prefetch(next, 1);
      next += 64;
      if (next < end) continue;
      rows.first += rows.pitch;
      next = rows.first;
      end = next + rows.bytes;
    }
  }
};

// One round of G vectors: the capability's own, or this one.
template <class L, class V, int G>
FASTINIT_INLINE void philox_round(long, V (&x0)[G], V (&x1)[G], V (&x2)[G], V (&x3)[G], V m0, V m1,
                                  const V& k0, const V& k1) {
  FASTINIT_UNROLL
  for (int g = 0; g < G; ++g) {
    const V p0 = L::vmul(x0[g], m0), p1 = L::vmul(x2[g], m1);
    x0[g] = L::vxor3(L::vhigh(p1), x1[g], k0);
    x2[g] = L::vxor3(L::vhigh(p0), x3[g], k1);
    x1[g] = p1;
    x3[g] = p0;
  }
}
template <class L, class V, int G>
FASTINIT_INLINE auto philox_round(int, V (&x0)[G], V (&x1)[G], V (&x2)[G], V (&x3)[G], V m0, V m1,
                                  const V& k0, const V& k1)
    -> decltype(L::round(x0, x1, x2, x3, m0, m1, k0, k1)) {
  L::round(x0, x1, x2, x3, m0, m1, k0, k1);
}

// Words of `groups` groups from the block with this low counter word on. Packed (for 32-bit lanes):
// per group one vector of words 0 and 2 of each block and one of words 1 and 3. Otherwise four
// vectors of one word per 64-bit lane.
//
// Meanwhile asks for the memory that the words will end in, `group_bytes` a group: nothing else
// here uses memory, and it is owned by the time it is written.
template <bool packed, class Lines>
__attribute__((noinline)) void make_words(const PhiloxVectors& philox, Lanes::V lane_order,
                                          uint32_t block, int groups, Lanes::V* out, Lines& given,
                                          int group_bytes) {
  using V = Lanes::V;
  constexpr int G = Lanes::kInterleave;
  Lines ahead = given;  // in registers
  const V m0 = Lanes::vset(kPhiloxM0), m1 = Lanes::vset(kPhiloxM1);
  // The first product of round 0; the next block's is a sum away.
  V product = Lanes::vmul(Lanes::vadd(Lanes::vset(block), lane_order), m0);
  const V step = Lanes::vset(uint64_t{Lanes::kBlocks} * kPhiloxM0);
  for (int first = 0; first < groups; first += G) {
    ahead.ask(G * group_bytes);
    V x0[G], x1[G], x2[G], x3[G];
    FASTINIT_UNROLL
    for (int g = 0; g < G; ++g) {
      const V p0 = product;
      product = Lanes::vadd(product, step);
      const V p1 = Lanes::vmul(Lanes::vxor(Lanes::vhigh(p0), philox.a), m1);
      x0[g] = Lanes::vxor(Lanes::vhigh(p1), philox.b);
      x1[g] = p1;
      x2[g] = Lanes::vxor(p0, philox.c);
    }
    FASTINIT_UNROLL
    for (int g = 0; g < G; ++g) {
      const V p0 = Lanes::vmul(x0[g], m0), p1 = Lanes::vmul(x2[g], m1);
      x0[g] = Lanes::vxor3(Lanes::vhigh(p1), x1[g], philox.k0[2]);
      x2[g] = Lanes::vxor(Lanes::vhigh(p0), philox.e);
      x1[g] = p1;
      x3[g] = p0;
    }
    FASTINIT_UNROLL
    for (int round = 3; round < kPhiloxRounds - packed; ++round) {
      philox_round<Lanes>(0, x0, x1, x2, x3, m0, m1, philox.k0[round], philox.k1[round]);
    }
    FASTINIT_UNROLL
    for (int g = 0; g < G; ++g) {
      if constexpr (packed) {
        const V p0 = Lanes::vmul(x0[g], m0), p1 = Lanes::vmul(x2[g], m1);
        Lanes::last_round(p0, p1, x1[g], x3[g], philox.last, out[0], out[1]);
        out += 2;
      } else {
        out[0] = x0[g];
        out[1] = x1[g];
        out[2] = x2[g];
        out[3] = x3[g];
        out += 4;
      }
    }
  }
  given = ahead;
}
