// Compares what the lanes of every capability make, bit for bit: all kinds and types, every length
// and start around the sizes of a group and a batch, runs of several rows, and runs that cross
// block 2^32, where the low counter word wraps. Prints mismatches, then how many pieces it
// compared.
#include <atomic>
#include <thread>

#include "cases.h"

namespace native {
namespace {

constexpr int64_t kReference = 8192;
constexpr uint64_t kWrap = uint64_t{4} << 32;  // the first element of block 2^32

// `rows` rows of `count` elements, the first at `start`, `step` further on in the stream each, and
// `gap` bytes between them in memory.
struct Piece {
  int64_t start, count, rows, step, gap;
};

std::vector<Piece> short_pieces() {
  std::vector<Piece> pieces;
  for (int64_t start : {0, 1, 2, 3, 7})
    for (int64_t count = 0; count <= 101; ++count) pieces.push_back({start, count, 1, 0, 0});
  for (int64_t start : {0, 1, 3})
    for (int64_t count : {127, 128, 129, 767, 768, 769, 1020, 1024, 1025, 2049, 3071, 5000})
      pieces.push_back({start, count, 1, 0, 0});
  for (int64_t count : {1, 3, 4, 5, 32, 61, 380})
    for (int64_t step : {0, 1, 6, 383}) pieces.push_back({step % 4, count, 5, step, step % 3 * 8});
  return pieces;
}

std::vector<Piece> wrapping_pieces() {  // relative to 1024 elements before the wrap
  std::vector<Piece> pieces;
  for (int64_t before = 0; before <= 70; ++before)
    for (int64_t count : {before + 1, before + 40})
      pieces.push_back({1024 - before, count, 1, 0, 0});
  pieces.push_back({0, 2048, 1, 0, 0});
  pieces.push_back({3, 4000, 1, 0, 0});
  pieces.push_back({700, 50, 20, 53, 4});
  return pieces;
}

bool same(const cpu::Capability& capability, const Case& c, uint64_t first, const Piece& piece,
          const std::vector<char>& want) {
  const int item = c.task.transform.item_size;
  const size_t bytes = static_cast<size_t>(piece.count) * item;
  const size_t shift = static_cast<size_t>(piece.count + piece.start) % 67;
  const size_t pitch = bytes + static_cast<size_t>(piece.gap);
  // Exactly as large as what is written, so that the sanitizer sees one byte too many.
  std::vector<char> memory(shift + pitch * (piece.rows - 1) + bytes, 'g'), expected = memory;
  for (int64_t r = 0; r < piece.rows; ++r)
    if (bytes > 0)
      std::memcpy(expected.data() + shift + r * pitch,
                  want.data() + (piece.start + r * piece.step) * item, bytes);
  const cpu::Run run{first + piece.start, piece.count, piece.rows,
                     static_cast<uint64_t>(piece.step), static_cast<int64_t>(pitch)};
  capability.generate(c.task, run, memory.data() + shift);
  return memory == expected;
}

long compare(const Case& c, uint64_t first, const std::vector<Piece>& pieces,
             std::atomic<int>& mismatches) {
  std::vector<char> want(kReference * c.task.transform.item_size);
  cpu::scalar::generate_run(c.task, {first, kReference, 1, 0, 0}, want.data());
  long compared = 0;
  for (const cpu::Capability& capability : cpu::capabilities()) {
    for (const Piece& piece : pieces) {
      ++compared;
      if (same(capability, c, first, piece, want)) continue;
      if (++mismatches <= 20)
        std::printf("%s, %s: %lld rows of %lld elements from %llu on differ\n", capability.name,
                    c.name.c_str(), static_cast<long long>(piece.rows),
                    static_cast<long long>(piece.count),
                    static_cast<unsigned long long>(first + piece.start));
    }
  }
  return compared;
}

}  // namespace

int check_lanes() {
  const std::vector<Case> cases = random_cases();
  std::atomic<int> mismatches{0};
  std::atomic<long> compared{0};
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t k = next++; k < cases.size(); k = next++) {
      const Case& c = cases[k];
      compared += compare(c, 0, short_pieces(), mismatches);
      compared += compare(c, kWrap - 1024, wrapping_pieces(), mismatches);
      compared += compare(c, 12345678901234567u, {{0, 33, 1, 0, 0}, {2, 100, 1, 0, 0}}, mismatches);
    }
  };
  std::thread beside(work);
  work();
  beside.join();
  std::printf("capabilities:");
  for (const cpu::Capability& capability : cpu::capabilities()) std::printf(" %s", capability.name);
  std::printf("\npieces: %ld\nmismatches: %d\n", compared.load(), mismatches.load());
  return mismatches == 0 ? 0 : 1;
}

}  // namespace native
