// The loop bodies of every fill, over the struct Lanes of the including namespace. Included once
// per capability, inside its target region and namespace; defines generate_run for dispatch.cpp.
//
// Two phases over a small batch: first the words of the batch, several blocks interleaved to hide
// the latency of the multiplies, then the transform, reading words from the first-level cache. In
// one loop the two chains follow each other and no processor looks far enough ahead to overlap
// them.

#if defined(__GNUC__) && !defined(__clang__)
#define FASTINIT_UNROLL _Pragma("GCC unroll 16")
#else
#define FASTINIT_UNROLL _Pragma("unroll")
#endif

// A group is one state vector of blocks; a batch fits a quarter of a first-level cache.
constexpr int kGroupElements = 4 * Lanes::kBlocks;
constexpr int kBatchGroups = 1024 / kGroupElements / Lanes::kInterleave * Lanes::kInterleave;

// How far ahead of the stores a line is asked for, to own it by the time it is written.
constexpr int kPrefetchBytes = 2048;

// What Philox needs besides the low counter word, for one key, purpose and high counter word: the
// round keys, and all that the constant three quarters of the counter contribute to rounds 0 to 2.
struct Stream {
  Lanes::V k0[kPhiloxRounds], k1[kPhiloxRounds];
  Lanes::V a, b, c, e;

  Stream(uint64_t key, Purpose purpose, uint32_t counter_high) {
    uint32_t s0[kPhiloxRounds], s1[kPhiloxRounds];
    s0[0] = static_cast<uint32_t>(key);
    s1[0] = static_cast<uint32_t>(key >> 32);
    for (int round = 1; round < kPhiloxRounds; ++round) {
      s0[round] = s0[round - 1] + kPhiloxW0;
      s1[round] = s1[round - 1] + kPhiloxW1;
    }
    for (int round = 0; round < kPhiloxRounds; ++round) {
      k0[round] = Lanes::vset(s0[round]);
      k1[round] = Lanes::vset(s1[round]);
    }
    const uint64_t p1 = static_cast<uint64_t>(kPhiloxM1) * static_cast<uint32_t>(purpose);
    const uint32_t x0 = static_cast<uint32_t>(p1 >> 32) ^ counter_high ^ s0[0];
    const uint64_t p0 = static_cast<uint64_t>(kPhiloxM0) * x0;
    a = Lanes::vset(kMagic ^ s1[0]);
    b = Lanes::vset(static_cast<uint32_t>(p1) ^ s0[1]);
    c = Lanes::vset(static_cast<uint32_t>(p0 >> 32) ^ s1[1]);
    e = Lanes::vset(static_cast<uint32_t>(p0) ^ s1[2]);
  }
};

// Words of `groups` groups from the block with this low counter word on. Packed (for 32-bit lanes):
// per group one vector of words 0 and 2 of each block and one of words 1 and 3. Otherwise four
// vectors of one word per 64-bit lane.
template <bool packed>
__attribute__((noinline)) void make_words(const Stream& stream, Lanes::V lane_order, uint32_t block,
                                          int groups, Lanes::V* out) {
  using V = Lanes::V;
  constexpr int G = Lanes::kInterleave;
  const V m0 = Lanes::vset(kPhiloxM0), m1 = Lanes::vset(kPhiloxM1);
  V counter = Lanes::vadd(Lanes::vset(block), lane_order);
  const V step = Lanes::vset(Lanes::kBlocks);
  for (int first = 0; first < groups; first += G) {
    V x0[G], x1[G], x2[G], x3[G];
    FASTINIT_UNROLL
    for (int g = 0; g < G; ++g) {
      const V p0 = Lanes::vmul(counter, m0);
      counter = Lanes::vadd(counter, step);
      const V p1 = Lanes::vmul(Lanes::vxor(Lanes::vhigh(p0), stream.a), m1);
      x0[g] = Lanes::vxor(Lanes::vhigh(p1), stream.b);
      x1[g] = p1;
      x2[g] = Lanes::vxor(p0, stream.c);
    }
    FASTINIT_UNROLL
    for (int g = 0; g < G; ++g) {
      const V p0 = Lanes::vmul(x0[g], m0), p1 = Lanes::vmul(x2[g], m1);
      x0[g] = Lanes::vxor3(Lanes::vhigh(p1), x1[g], stream.k0[2]);
      x2[g] = Lanes::vxor(Lanes::vhigh(p0), stream.e);
      x1[g] = p1;
      x3[g] = p0;
    }
    FASTINIT_UNROLL
    for (int round = 3; round < kPhiloxRounds; ++round) {
      FASTINIT_UNROLL
      for (int g = 0; g < G; ++g) {
        const V p0 = Lanes::vmul(x0[g], m0), p1 = Lanes::vmul(x2[g], m1);
        x0[g] = Lanes::vxor3(Lanes::vhigh(p1), x1[g], stream.k0[round]);
        x2[g] = Lanes::vxor3(Lanes::vhigh(p0), x3[g], stream.k1[round]);
        x1[g] = p1;
        x3[g] = p0;
      }
    }
    FASTINIT_UNROLL
    for (int g = 0; g < G; ++g) {
      if constexpr (packed) {
        out[0] = Lanes::vpack(x0[g], x2[g]);
        out[1] = Lanes::vpack(x1[g], x3[g]);
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
}

// One sample of each transform that maps a word to an element.
template <class L, Kind kind>
FASTINIT_INLINE typename L::F sample(const TransformArgs<typename L::Real>& t, typename L::W w,
                                     typename L::W low) {
  if constexpr (kind == Kind::Uniform) return uniform<L>(t, w, low);
  if constexpr (kind == Kind::Narrow) return trunc_normal_narrow<L>(t, w, low);
  if constexpr (kind == Kind::Central) return trunc_normal_central<L>(t, w, low);
  if constexpr (kind == Kind::Tail) return trunc_normal_tail<L>(t, w, low);
  if constexpr (kind == Kind::Far) return trunc_normal_far<L>(t, w, low);
}

// Elements 2k from `even` words and 2k + 1 from `odd` ones.
template <class L, Kind kind, bool clamped>
FASTINIT_INLINE void sample_pair(const TransformArgs<typename L::Real>& t, typename L::W even,
                                 typename L::W odd, typename L::W even_low, typename L::W odd_low,
                                 typename L::F& first, typename L::F& second) {
  if constexpr (kind == Kind::Normal) {
    normal_pair<L>(t, even, odd, even_low, odd_low, first, second);
  } else {
    first = sample<L, kind>(t, even, even_low);
    second = sample<L, kind>(t, odd, odd_low);
  }
  if constexpr (clamped) {
    first = L::at_most(L::at_least(first, L::set(t.lo)), L::set(t.hi));
    second = L::at_most(L::at_least(second, L::set(t.lo)), L::set(t.hi));
  }
}

template <DType dtype>
FASTINIT_INLINE void store(char* out, Lanes::F32::F even, Lanes::F32::F odd) {
  using L = Lanes::F32;
  if constexpr (dtype == DType::F32) Lanes::store32(out, L::bits(even), L::bits(odd));
  if constexpr (dtype == DType::BF16) Lanes::store16(out, round_bf16<L>(even), round_bf16<L>(odd));
  if constexpr (dtype == DType::F16)
    Lanes::store16(out, round_small<L, FormatF16>(even), round_small<L, FormatF16>(odd));
  if constexpr (dtype == DType::E4M3)
    Lanes::store8(out, round_small<L, FormatE4M3>(even), round_small<L, FormatE4M3>(odd));
  if constexpr (dtype == DType::E5M2)
    Lanes::store8(out, round_small<L, FormatE5M2>(even), round_small<L, FormatE5M2>(odd));
}

constexpr int bytes_of(DType dtype) {
  return dtype == DType::F64                            ? 8
         : dtype == DType::F16 || dtype == DType::BF16  ? 2
         : dtype == DType::E4M3 || dtype == DType::E5M2 ? 1
                                                        : 4;
}

// The elements of one group.
template <Kind kind, DType dtype, bool clamped, class Args>
FASTINIT_INLINE void write_group(const Args& args, const Lanes::V* words, const Lanes::V* low,
                                 char* out) {
  if constexpr (dtype == DType::F64) {
    using L = Lanes::F64;
    typename L::F v[4];
    FASTINIT_UNROLL
    for (int p = 0; p < 4; p += 2)
      sample_pair<L, kind, clamped>(args, Lanes::word64(words[p]), Lanes::word64(words[p + 1]),
                                    Lanes::word64(low[p]), Lanes::word64(low[p + 1]), v[p],
                                    v[p + 1]);
    Lanes::store64(out, v[0], v[1], v[2], v[3]);
  } else {
    using L = Lanes::F32;
    FASTINIT_UNROLL
    for (int p = 0; p < Lanes::kParts; ++p) {
      const auto even = Lanes::word32(words[0], p), odd = Lanes::word32(words[1], p);
      char* to = out + p * 2 * L::kWidth * bytes_of(dtype);
      if constexpr (kind == Kind::Words) {
        Lanes::store32(to, even, odd);
      } else {
        typename L::F first, second;
        sample_pair<L, kind, clamped>(args, even, odd, even, odd, first, second);
        store<dtype>(to, first, second);
      }
    }
  }
}

template <DType dtype>
FASTINIT_INLINE auto args_of(const Transform& t) {
  if constexpr (dtype == DType::F64)
    return t.f64;
  else
    return t.f32;
}

// A run of a task to memory: everything constant over its rows, and one row.
template <Kind kind, DType dtype, bool clamped>
struct Writer {
  using V = Lanes::V;
  static constexpr bool wide = dtype == DType::F64;
  static constexpr int item = bytes_of(dtype), vectors = wide ? 4 : 2;

  const decltype(args_of<dtype>(Transform{})) args;
  const uint64_t key;
  const Purpose purpose;
  const V order = item == 4 ? Lanes::vorder_interleaved() : Lanes::vorder_plain();
  uint32_t high;
  Stream stream, low_stream;
  V words[kBatchGroups * vectors], low[wide ? kBatchGroups * vectors : 1];
  alignas(64) char edge[2][kGroupElements * item];

  Writer(const FillTask& task, uint64_t first)
      : args(args_of<dtype>(task.transform)),
        key(task.key),
        purpose(task.purpose),
        high(static_cast<uint32_t>(first / 4 >> 32)),
        stream(key, purpose, high),
        low_stream(key, Purpose::Low, high) {}

  void use_high(uint32_t wanted) {
    if (wanted == high) return;
    high = wanted;
    stream = Stream(key, purpose, high);
    if (wide) low_stream = Stream(key, Purpose::Low, high);
  }

  void write_row(uint64_t first, int64_t count, char* out) {
    uint64_t block = first / 4;
    int64_t skip = static_cast<int64_t>(first % 4);
    while (count > 0) {
      use_high(static_cast<uint32_t>(block >> 32));
      // A batch ends where the low counter word wraps.
      const int64_t blocks_left = (int64_t{1} << 32) - static_cast<uint32_t>(block);
      int64_t made = int64_t{kBatchGroups} * kGroupElements - skip;
      made = made < count ? made : count;
      made = made < 4 * blocks_left - skip ? made : 4 * blocks_left - skip;
      write_batch(static_cast<uint32_t>(block), skip, made, out);
      out += made * item;
      count -= made;
      block += static_cast<uint64_t>((skip + made) / 4);
      skip = (skip + made) % 4;
    }
  }

  // `made` elements from element `skip` of a block on.
  void write_batch(uint32_t block, int64_t skip, int64_t made, char* out) {
    const int64_t end = skip + made;
    const int groups = static_cast<int>((end + kGroupElements - 1) / kGroupElements);
    make_words<!wide>(stream, order, block, groups, words);
    if constexpr (wide) make_words<false>(low_stream, order, block, groups, low);

    // Copies: through `to`, a char pointer, the compiler must assume that any object may change.
    const auto constants = args;
    const V* const from = words;
    const bool cut_head = skip > 0, cut_tail = end % kGroupElements != 0;
    for (int g = 0; g < groups; ++g) {
      char* to = out + (int64_t{g} * kGroupElements - skip) * item;
      __builtin_prefetch(to + kPrefetchBytes, 1);
      if (cut_tail && g == groups - 1) to = edge[1];
      if (cut_head && g == 0) to = edge[0];
      write_group<kind, dtype, clamped>(constants, from + g * vectors,
                                        low + (wide ? g * vectors : 0), to);
    }
    // A group cut at both ends went to edge[0].
    const int64_t head = cut_head ? (end < kGroupElements ? made : kGroupElements - skip) : 0;
    if (cut_head) memcpy(out, edge[0] + skip * item, static_cast<size_t>(head * item));
    if (cut_tail && !(cut_head && groups == 1)) {
      const int64_t tail = end % kGroupElements;
      memcpy(out + (made - tail) * item, edge[1], static_cast<size_t>(tail * item));
    }
  }
};

template <Kind kind, DType dtype, bool clamped>
void write_run(const FillTask& task, const Run& run, char* out) {
  Writer<kind, dtype, clamped> writer(task, run.first);
  uint64_t first = run.first;
  for (int64_t r = 0; r < run.rows; ++r, first += run.step, out += run.pitch)
    writer.write_row(first, run.count, out);
}

template <Kind kind, bool clamped>
void run_kind(const FillTask& task, const Run& run, char* out) {
  switch (task.transform.dtype) {
    case DType::F32:
      return write_run<kind, DType::F32, clamped>(task, run, out);
    case DType::F64:
      return write_run<kind, DType::F64, clamped>(task, run, out);
    case DType::F16:
      return write_run<kind, DType::F16, clamped>(task, run, out);
    case DType::BF16:
      return write_run<kind, DType::BF16, clamped>(task, run, out);
    case DType::E4M3:
      return write_run<kind, DType::E4M3, clamped>(task, run, out);
    case DType::E5M2:
      return write_run<kind, DType::E5M2, clamped>(task, run, out);
    default:
      return;
  }
}

void generate_run(const FillTask& task, const Run& run, char* out) {
  const bool clamped = task.transform.clamped;
  switch (task.transform.kind) {
    case Kind::Words:
      return write_run<Kind::Words, DType::Word, false>(task, run, out);
    case Kind::Uniform:
      return clamped ? run_kind<Kind::Uniform, true>(task, run, out)
                     : run_kind<Kind::Uniform, false>(task, run, out);
    case Kind::Normal:
      return clamped ? run_kind<Kind::Normal, true>(task, run, out)
                     : run_kind<Kind::Normal, false>(task, run, out);
    case Kind::Narrow:
      return run_kind<Kind::Narrow, true>(task, run, out);
    case Kind::Central:
      return run_kind<Kind::Central, true>(task, run, out);
    case Kind::Tail:
      return run_kind<Kind::Tail, true>(task, run, out);
    case Kind::Far:
      return run_kind<Kind::Far, true>(task, run, out);
    case Kind::Constant:
      return;  // no words: tiles.cpp writes it
  }
}
