// Evaluates the float32 transforms of csrc/core at all 2^32 words and reports the largest errors
// against libm in double precision, whose own errors (about 1e-15) do not count here. Built and run
// by tools/exhaustive.py.
//
//   exhaustive STRIDE THREADS CHECK...     CHECK is uniform, radius, angle, or MEAN:STD:A:B
//
// One line per check: name, words, largest error, where, allowed, ok or FAILED.
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "core/transforms.h"
#include "host/params.h"

namespace {

using namespace fastinit;
using L = ScalarF32;

constexpr uint64_t kWords = 1ull << 32;
constexpr double kHalfPi = 1.5707963267948966;

struct Worst {
  double error = 0;
  uint32_t word = 0;
  uint64_t defects = 0;  // NaN, out of bounds, not what it must equal

  void see(double e, uint32_t w) {
    if (e > error) error = e, word = w;
    if (std::isnan(e)) ++defects;
  }
  void require(bool held) { defects += !held; }
  void merge(const Worst& other) {
    if (other.error > error) error = other.error, word = other.word;
    defects += other.defects;
  }
};

// u of a radius or quantile word, and log(u), exact at both ends.
double unit(uint32_t w) { return (w + 0.5) * 0x1p-32; }
double log_unit_of(uint32_t w) {
  return w < 0x80000000u ? std::log(unit(w)) : std::log1p(-unit(~w));
}

// u = (w >> 8) / 2^24 exactly, and the float64 sample in the same cell whatever its low word.
void check_uniform(uint32_t w, Worst& worst) {
  static const TransformArgs<float> narrow = [] {
    TransformArgs<float> t{};
    t.uniform = {1, 0};
    return t;
  }();
  static const TransformArgs<double> wide = [] {
    TransformArgs<double> t{};
    t.uniform = {1, 0};
    return t;
  }();
  const double x = uniform<L>(narrow, w, 0);
  worst.see(std::fabs(x - (w >> 8) * 0x1p-24), w);
  for (uint32_t low : {0u, ~0u}) {
    const double gap = uniform<ScalarF64>(wide, w, low) - x;
    worst.require(gap >= 0 && gap < 0x1p-24);
  }
}

// Relative error of sqrt(-2 log u).
void check_radius(uint32_t w, Worst& worst) {
  static const TransformArgs<float> standard = [] {
    TransformArgs<float> t{};
    t.normal = {0, 1};
    return t;
  }();
  const float v = signed_unit<L>(w, 0);
  const float r = L::sqrt(-2 * log_near_one<L>(v < 0 ? v + 1 : v, v));
  worst.see(std::fabs(r / std::sqrt(-2 * log_unit_of(w)) - 1), w);
  // The same radius as in the transform itself.
  float first, second, c, s;
  normal_pair<L>(standard, w, 0x12345678u, 0, 0, first, second);
  cos_sin<L>(0x12345678u, 0, c, s);
  worst.require(first == r * c + 0.0f && second == r * s + 0.0f);
}

// Distance of (cos, sin) from the unit vector at angle t / 2^32 turns.
void check_angle(uint32_t t, Worst& worst) {
  float c, s;
  cos_sin<L>(t, 0, c, s);
  const uint32_t quadrant = (t + 0x20000000u) >> 30;
  const double y = static_cast<int32_t>(t - (quadrant << 30)) * 0x1p-30 * kHalfPi;
  const double cy = std::cos(y), sy = std::sin(y);
  const double cosine[] = {cy, -sy, -cy, sy}, sine[] = {sy, cy, -sy, -cy};
  worst.see(std::hypot(c - cosine[quadrant], s - sine[quadrant]), t);
}

// Truncated normal: error beyond one unit in the last place, over std max(1, |z|), or over the
// width where the branch is the narrow one.
class TruncNormal {
 public:
  explicit TruncNormal(const double (&args)[4])
      : mean_(args[0]),
        std_(args[1]),
        width_((args[3] - args[2]) / args[1]),
        transform_(host::make_transform(Distribution::TruncNormal, DType::F32, args)) {
    const double alpha = (args[2] - args[0]) / args[1], beta = (args[3] - args[0]) / args[1];
    below_alpha_ = tail(-alpha), above_beta_ = tail(beta);
    // Differences of the smaller tail on each side lose nothing.
    from_below_ = tail(-beta) - tail(-alpha), from_above_ = tail(alpha) - tail(beta);
  }

  void check(uint32_t w, Worst& worst) const {
    const auto& t = transform_.f32;
    const float x = L::at_most(L::at_least(sample(w), t.lo), t.hi);
    worst.require(x >= t.lo && x <= t.hi);
    const double z = (x - mean_) / std_, u = unit(w), rest = unit(~w);
    // Probability beyond z on its own side: what it is and what u asks for.
    const double side = z < 0 ? -1 : 1;
    const double is = tail(side * z);
    const double wanted = z < 0 ? below_alpha_ + u * from_below_ : above_beta_ + rest * from_above_;
    const double density = std::exp(-0.5 * z * z) * 0.3989422804014327;
    const double error = std::fabs(std::log(wanted / is)) * is / density;
    const double ulp = (std::nextafter(std::fabs(x), HUGE_VALF) - std::fabs(x)) / std_;
    const double scale = transform_.kind == Kind::Narrow ? width_ : std::fmax(1, std::fabs(z));
    worst.see(std::fmax(error - ulp, 0) / scale, w);
  }

  const char* branch() const {
    switch (transform_.kind) {
      case Kind::Narrow:
        return "narrow";
      case Kind::Central:
        return "central";
      case Kind::Tail:
        return "tail";
      case Kind::Far:
        return "far";
      default:
        return "constant";
    }
  }

 private:
  static double tail(double z) { return 0.5 * std::erfc(z * 0.7071067811865476); }

  float sample(uint32_t w) const {
    const auto& t = transform_.f32;
    switch (transform_.kind) {
      case Kind::Narrow:
        return trunc_normal_narrow<L>(t, w, 0);
      case Kind::Tail:
        return trunc_normal_tail<L>(t, w, 0);
      case Kind::Far:
        return trunc_normal_far<L>(t, w, 0);
      default:
        return trunc_normal_central<L>(t, w, 0);
    }
  }

  double mean_, std_, width_, below_alpha_, above_beta_, from_below_, from_above_;
  Transform transform_;
};

// Every stride-th word and the words at the seams, which a stride would step over.
template <class Check>
Worst over_all_words(uint64_t stride, unsigned threads, const Check& check) {
  std::vector<Worst> parts(threads);
  std::vector<std::thread> pool;
  for (unsigned k = 0; k < threads; ++k) {
    pool.emplace_back([&, k] {
      Worst worst;  // on this thread's stack: neighbours in `parts` share cache lines
      for (uint64_t w = k * stride; w < kWords; w += threads * stride)
        check(static_cast<uint32_t>(w), worst);
      parts[k] = worst;
    });
  }
  for (auto& thread : pool) thread.join();
  Worst worst;
  for (const Worst& part : parts) worst.merge(part);
  for (uint64_t seam = 0; seam < kWords; seam += 1u << 20)
    for (int d = -2; d <= 2; ++d) check(static_cast<uint32_t>(seam + d), worst);
  return worst;
}

bool report(const std::string& name, uint64_t stride, const Worst& worst, double allowed) {
  const bool held = worst.defects == 0 && worst.error <= allowed;
  std::printf("%s\t%" PRIu64 "\t%.3g\t0x%08x\t%.3g\t%s\n", name.c_str(), kWords / stride,
              worst.error, worst.word, allowed, held ? "ok" : "FAILED");
  if (worst.defects) std::printf("%s: %" PRIu64 " defects\n", name.c_str(), worst.defects);
  std::fflush(stdout);
  return held;
}

bool run(const std::string& name, uint64_t stride, unsigned threads) {
  if (name == "uniform")
    return report(name, stride, over_all_words(stride, threads, check_uniform), 0);
  if (name == "radius")
    return report(name, stride, over_all_words(stride, threads, check_radius), 5e-7);
  if (name == "angle")
    return report(name, stride, over_all_words(stride, threads, check_angle), 5e-7);
  double args[4];
  const char* text = name.c_str();
  for (double& value : args) {
    char* end;
    value = std::strtod(text, &end);
    if (end == text || (*end != ':' && *end != 0)) {
      std::fprintf(stderr, "exhaustive: '%s' is no check\n", name.c_str());
      std::exit(2);
    }
    text = *end ? end + 1 : end;
  }
  const TruncNormal trunc(args);
  const auto check = [&](uint32_t w, Worst& worst) { trunc.check(w, worst); };
  return report("trunc_normal " + name + " (" + trunc.branch() + ")", stride,
                over_all_words(stride, threads, check), 2e-6);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const uint64_t stride = std::strtoull(argv[1], nullptr, 10);
  const unsigned threads = static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10));
  bool held = stride > 0 && threads > 0;
  for (int k = 3; k < argc; ++k) held &= run(argv[k], stride, threads);
  return held ? 0 : 1;
}
