// The loop bodies of every fill, over the struct Lanes of the including namespace. Included once
// per capability, inside its target region and namespace; defines generate_run for dispatch.cpp.
//
// A batch of about a thousand elements goes through passes, each reading the one before from the
// first-level cache: its words, what is best computed apart (`early`), the samples. In one loop the
// chains of dependent instructions follow each other, and no processor looks far enough ahead to
// overlap them.

// A group is one state vector of blocks; a batch fits a quarter of a first-level cache.
constexpr int kGroupElements = 4 * Lanes::kBlocks;
constexpr int kBatchStep = Lanes::kInterleave * Lanes::kRadiiAbreast;  // groups
constexpr int kBatchGroups = 1024 / kGroupElements / kBatchStep * kBatchStep;

#include "cpu/lanes_several.inl"
#include "cpu/words.inl"

// The lane type that computes a type, and where the words of a pair of elements are: pair k makes
// the elements of one vector of even and one of odd words.
template <DType dtype>
struct LanesOf {
  static constexpr bool wide = dtype == DType::F64;
  using L = std::conditional_t<wide, Lanes::F64, Lanes::F32>;
  using W = typename L::W;
  static constexpr int kVectors = wide ? 4 : 2;  // of words, a group
  static constexpr int kPairs = wide ? 2 : Lanes::kParts;
  // Radii, and groups of normal samples, computed side by side.
  static constexpr int kRadii = wide ? 1 : Lanes::kRadiiAbreast;
  static constexpr int kGroups = wide ? 1 : Lanes::kPointsAbreast;
  static FASTINIT_INLINE W word(const Lanes::V* words, int pair, int odd) {
    if constexpr (wide)
      return Lanes::word64(words[2 * pair + odd]);
    else
      return Lanes::word32(words[2 * (pair / kPairs) + odd], pair % kPairs);
  }
  template <int n>
  static FASTINIT_INLINE typename Several<L, n>::W several(const Lanes::V* words, int pair,
                                                           int odd) {
    typename Several<L, n>::W w;
    FASTINIT_UNROLL
    for (int k = 0; k < n; ++k) w.v[k] = word(words, pair + k, odd);
    return w;
  }
};

// The samples that take the long way, apart: their words and the places of the results.
struct TailSamples {
  static constexpr int kCapacity = kBatchGroups * kGroupElements + Lanes::F32::kWidth;
  uint32_t words[kCapacity], low[kCapacity], places[kCapacity];
};

// The pass between words and samples: radii of normal pairs; standard quantiles of central
// truncated normals, first as if all were in the middle, then the few in the tails again.
template <Kind kind, DType dtype, class Args, class Real, class MaybeTails>
FASTINIT_INLINE void early_pass(const Args& args, const Lanes::V* words, const Lanes::V* low,
                                int groups, Real* early, MaybeTails& tails) {
  using Types = LanesOf<dtype>;
  using L = typename Types::L;
  constexpr int width = L::kWidth;
  const int pairs = groups * Types::kPairs;
  if constexpr (kind == Kind::Normal) {
    constexpr int n = Types::kRadii;  // divides a whole batch; a few past the last are made in vain
    using Ls = Several<L, n>;
    for (int k = 0; k < pairs; k += n) {
      const auto w = Types::template several<n>(words, k, 0),
                 w_low = Types::template several<n>(low, k, 0);
      Ls::store(early + k * width, normal_radius<Ls>(args, w, w_low));
    }
  }
  if constexpr (kind == Kind::Central) {
    int found = 0;
    for (int k = 0; k < 2 * pairs; ++k) {
      const auto w = Types::word(words, k / 2, k % 2), w_low = Types::word(low, k / 2, k % 2);
      typename L::M is_tail;
      const auto z = central_middle<L>(central_point<L>(args, w, w_low), is_tail);
      L::store(early + k * width, z.value());
      const auto place = L::word_add(L::word_iota(), L::word_set(static_cast<uint32_t>(k * width)));
      L::compress(tails.words + found, is_tail, w);
      L::compress(tails.places + found, is_tail, place);
      if constexpr (Types::wide) L::compress(tails.low + found, is_tail, w_low);
      found += L::count(is_tail);
    }
    for (int k = 0; k < found; k += width) {
      const auto w = L::word_load(tails.words + k);
      const auto w_low = Types::wide ? L::word_load(tails.low + k) : w;
      Real z[width];
      L::store(z, central_tail<L>(args, central_point<L>(args, w, w_low), w).value());
      for (int lane = 0; lane < width && k + lane < found; ++lane)
        early[tails.places[k + lane]] = z[lane];
    }
  }
}

// The elements of pairs k to k + n - 1: from `even` words, and from `odd` ones.
template <Kind kind, DType dtype, bool clamped, int n, class Args, class Real, class F>
FASTINIT_INLINE void sample_pairs(const Args& t, const Lanes::V* words, const Lanes::V* low,
                                  const Real* early, int k, F& even, F& odd) {
  using Types = LanesOf<dtype>;
  using L = typename Types::L;
  using Ls = Several<L, n>;
  constexpr int width = L::kWidth;
  if constexpr (kind == Kind::Normal) {
    const auto w = Types::template several<n>(words, k, 1),
               w_low = Types::template several<n>(low, k, 1);
    normal_point<Ls>(t, Ls::load(early + k * width), w, w_low, even, odd);
  } else {
    FASTINIT_UNROLL
    for (int i = 0; i < n; ++i) {
      if constexpr (kind == Kind::Central) {
        even.v[i] = central_value<L>(t, L::load(early + 2 * (k + i) * width));
        odd.v[i] = central_value<L>(t, L::load(early + (2 * (k + i) + 1) * width));
      } else {
        even.v[i] = sample<L, kind, Lanes::kUnitExact>(t, Types::word(words, k + i, 0),
                                                       Types::word(low, k + i, 0));
        odd.v[i] = sample<L, kind, Lanes::kUnitExact>(t, Types::word(words, k + i, 1),
                                                      Types::word(low, k + i, 1));
      }
    }
  }
  if constexpr (clamped) {
    even = Ls::at_most(Ls::at_least(even, Ls::set(t.lo)), Ls::set(t.hi));
    odd = Ls::at_most(Ls::at_least(odd, Ls::set(t.lo)), Ls::set(t.hi));
  }
}

template <DType dtype>
FASTINIT_INLINE void store(char* out, Lanes::F32::F even, Lanes::F32::F odd) {
  using L = Lanes::F32;
  if constexpr (dtype == DType::F32) Lanes::store32(out, L::bits(even), L::bits(odd));
  if constexpr (dtype == DType::BF16)
    Lanes::store16_high(out, round_bf16_high<L>(even), round_bf16_high<L>(odd));
  if constexpr (dtype == DType::F16)
    Lanes::store16(out, round_small<L, DType::F16>(even), round_small<L, DType::F16>(odd));
  if constexpr (dtype == DType::E4M3)
    Lanes::store8(out, round_small<L, DType::E4M3>(even), round_small<L, DType::E4M3>(odd));
  if constexpr (dtype == DType::E5M2)
    Lanes::store8(out, round_small<L, DType::E5M2>(even), round_small<L, DType::E5M2>(odd));
}

// The elements of `groups` groups from group g on.
template <Kind kind, DType dtype, bool clamped, int groups, class Args, class Real>
FASTINIT_INLINE void write_groups(const Args& args, const Lanes::V* words, const Lanes::V* low,
                                  const Real* early, int g, char* out) {
  using Types = LanesOf<dtype>;
  using L = typename Types::L;
  constexpr int pairs = groups * Types::kPairs;
  const int first = g * Types::kPairs;
  if constexpr (kind == Kind::Words) {
    FASTINIT_UNROLL
    for (int k = 0; k < pairs; ++k)
      Lanes::store32(out + k * 2 * L::kWidth * item_size(dtype), Types::word(words, first + k, 0),
                     Types::word(words, first + k, 1));
  } else {
    typename Several<L, pairs>::F even, odd;
    sample_pairs<kind, dtype, clamped, pairs>(args, words, low, early, first, even, odd);
    if constexpr (Types::wide) {
      Lanes::store64(out, even.v[0], odd.v[0], even.v[1], odd.v[1]);
    } else {
      FASTINIT_UNROLL
      for (int k = 0; k < pairs; ++k)
        store<dtype>(out + k * 2 * L::kWidth * item_size(dtype), even.v[k], odd.v[k]);
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
  using Types = LanesOf<dtype>;
  using Real = typename Types::L::Real;
  static constexpr bool wide = Types::wide;
  static constexpr int item = item_size(dtype), vectors = Types::kVectors;
  static constexpr bool has_early = kind == Kind::Normal || kind == Kind::Central;

  const decltype(args_of<dtype>(Transform{})) args;
  const uint64_t key;
  const Purpose purpose;
  const V order = item == 4 ? Lanes::vorder_interleaved() : Lanes::vorder_plain();
  uint32_t high;
  PhiloxVectors philox, low_philox;
  PrefetchRows destination;
  V words[kBatchGroups * vectors], low[wide ? kBatchGroups * vectors : 1];
  alignas(64) Real early[has_early ? kBatchGroups * kGroupElements : 1];
  std::conditional_t<kind == Kind::Central, TailSamples, char> tails;
  alignas(64) char edge[2][kGroupElements * item];

  Writer(const FillTask& task, uint64_t first, const MemoryRows& rows)
      : args(args_of<dtype>(task.transform)),
        key(task.key),
        purpose(task.purpose),
        high(static_cast<uint32_t>(first / 4 >> 32)),
        philox(key, purpose, high),
        low_philox(wide ? PhiloxVectors(key, Purpose::Low, high) : philox),
        destination(rows) {}

  void use_high(uint32_t wanted) {
    if (wanted == high) return;
    high = wanted;
    philox = PhiloxVectors(key, purpose, high);
    if (wide) low_philox = PhiloxVectors(key, Purpose::Low, high);
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
    if (destination.rows.bytes == 0) {
      PrefetchOnward here{out};
      make_words<!wide>(philox, order, block, groups, words, here, kGroupElements * item);
    } else {
      make_words<!wide>(philox, order, block, groups, words, destination, kGroupElements * item);
    }
    if constexpr (wide) make_words<false>(low_philox, order, block, groups, low, destination, 0);
    const V* const low_words = wide ? low : words;

    // Copies: through `to`, a char pointer, the compiler must assume that any object may change.
    const auto constants = args;
    const V* const from = words;
    const Real* const before = early;
    if constexpr (has_early)
      early_pass<kind, dtype>(constants, from, low_words, groups, early, tails);

    const bool cut_head = skip > 0, cut_tail = end % kGroupElements != 0;
    constexpr int abreast = kind == Kind::Normal ? Types::kGroups : 1;
    for (int g = 0; g < groups;) {
      char* to = out + (int64_t{g} * kGroupElements - skip) * item;
      const bool in_head = cut_head && g == 0;
      if (abreast > 1 && !in_head && g + abreast + cut_tail <= groups) {
        write_groups<kind, dtype, clamped, abreast>(constants, from, low_words, before, g, to);
        g += abreast;
        continue;
      }
      if (cut_tail && g == groups - 1) to = edge[1];
      if (in_head) to = edge[0];
      write_groups<kind, dtype, clamped, 1>(constants, from, low_words, before, g, to);
      ++g;
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
  Writer<kind, dtype, clamped> writer(task, run.first, run.destination);
  uint64_t first = run.first;
  for (int64_t r = 0; r < run.rows; ++r, first += run.step, out += run.pitch)
    writer.write_row(first, run.count, out);
}

template <Kind kind, bool clamped>
void run_dtype(const FillTask& task, const Run& run, char* out) {
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
    case DType::Word:
    case DType::Bytes:
      return;  // of no sample
  }
}

template <Kind kind>
void run_kind(const FillTask& task, const Run& run, char* out) {
  const Transform& t = task.transform;
  if constexpr (kind == Kind::Uniform && Lanes::kUnitExact)
    if (t.dtype != DType::F64 && !has_exact_unit(t.f32))
      return scalar::generate_run(task, run, out);
  // The others' samples may always leave their bounds.
  if constexpr (kind == Kind::Uniform || kind == Kind::Normal)
    if (!t.clamped) return run_dtype<kind, false>(task, run, out);
  run_dtype<kind, true>(task, run, out);
}

void generate_run(const FillTask& task, const Run& run, char* out) {
  switch (task.transform.kind) {
    case Kind::Constant:
      return;  // no words: tiles.cpp writes it
    case Kind::Words:
      return write_run<Kind::Words, DType::Word, false>(task, run, out);
#define FASTINIT_CASE(kind) \
  case Kind::kind:          \
    return run_kind<Kind::kind>(task, run, out);
      FASTINIT_SAMPLE_KINDS(FASTINIT_CASE)
#undef FASTINIT_CASE
  }
}
