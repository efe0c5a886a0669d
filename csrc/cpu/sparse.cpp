#include "cpu/sparse.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/item_types.h"

namespace fastinit::cpu {
namespace {

// Columns taken together: words are generated row by row, and short runs of them are dear.
constexpr int64_t kWidestPanel = 192, kNarrowestPanel = 16;
constexpr int64_t kPanelBytes = 4 << 20;
constexpr int64_t kWordsAtOnce = 4096;  // in the first-level cache

// Fewer elements than this per thread and waking another costs more than it saves.
constexpr int64_t kElementsPerWorker = 16 * 1024;

struct Window {
  uint64_t low, high;  // words below `low` become zero; those in [low, high) are ranked
};

// The count-th smallest of `rows` uniform words lies inside in all but one column of 16,000.
Window likely_window(int64_t count, int64_t rows) {
  const double p = static_cast<double>(count) / static_cast<double>(rows);
  const double reach =
      4 * std::sqrt(p * (1 - p) / static_cast<double>(rows)) + 1 / static_cast<double>(rows);
  const auto word = [](double x) {
    return static_cast<uint64_t>(std::clamp(x, 0.0, 1.0) * 0x1p32);
  };
  return {word(p - reach), word(p + reach)};
}

struct Job {
  SparseTask task;
  FillTask words;
  int64_t width;  // columns of a panel
};

// Of equal words the smaller row comes first.
struct Candidate {
  uint32_t word;
  int64_t row;
  bool operator<(const Candidate& other) const {
    return word != other.word ? word < other.word : row < other.row;
  }
};

// Marks of a panel of columns, and the ranked words: of all rows, for they decide together.
struct Panel {
  int64_t first, cols;         // of the task's columns
  std::vector<uint8_t> marks;  // rows x cols
  std::vector<uint8_t> sums;
  std::vector<int64_t> zeros;
  std::vector<std::vector<Candidate>> candidates;
};

void gather(const uint32_t* words, const uint8_t* marks, int64_t row, Panel& panel) {
  for (int64_t first = 0; first < panel.cols; first += 8) {
    uint64_t eight = 0;
    memcpy(&eight, marks + first, static_cast<size_t>(std::min<int64_t>(8, panel.cols - first)));
    eight &= 0x0101010101010101u * kCandidate;
    for (; eight != 0; eight &= eight - 1) {
      const int64_t c = first + (__builtin_ctzll(eight) >> 3);
      panel.candidates[c].push_back({words[c], row});
    }
  }
}

void mark_panel(const Job& job, Panel& panel, Window window, uint32_t* words) {
  const SparseTask& task = job.task;
  const Capability& by = capability();
  std::fill(panel.zeros.begin(), panel.zeros.end(), 0);
  for (auto& list : panel.candidates) list.clear();
  const MatrixPlace& whole = task.whole;
  const int64_t first = whole.first_col + panel.first;
  const int64_t rows_at_once = std::max<int64_t>(1, kWordsAtOnce / panel.cols);
  for (int64_t row = 0; row < whole.rows; row += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, whole.rows - row), n = rows * panel.cols;
    Run run{static_cast<uint64_t>(row * whole.cols + first), panel.cols, rows,
            static_cast<uint64_t>(whole.cols), panel.cols * 4};
    if (panel.cols == whole.cols) run = {static_cast<uint64_t>(row * whole.cols), n, 1, 0, 0};
    by.generate(job.words, run, reinterpret_cast<char*>(words));
    uint8_t* const marks = panel.marks.data() + row * panel.cols;
    by.mark_words(words, n, window.low, window.high, marks);
    for (int64_t r = 0; r < rows; r += 255)
      by.count_zeros(marks + r * panel.cols, std::min<int64_t>(255, rows - r), panel.cols,
                     panel.sums.data(), panel.zeros.data());
    for (int64_t r = 0; r < rows; ++r)
      gather(words + r * panel.cols, marks + r * panel.cols, row + r, panel);
  }
}

// Calls f(word, row) for all of a column of the panel, in order.
template <class F>
void each_word(const Job& job, const Panel& panel, int64_t c, uint32_t* words, const F& f) {
  const MatrixPlace& whole = job.task.whole;
  const uint64_t first = static_cast<uint64_t>(whole.first_col + panel.first + c);
  const uint64_t step = whole.cols;
  for (int64_t row = 0; row < whole.rows; row += kWordsAtOnce) {
    const int64_t n = std::min(kWordsAtOnce, whole.rows - row);
    const Run run{first + static_cast<uint64_t>(row) * step, 1, n, step, 4};
    capability().generate(job.words, run, reinterpret_cast<char*>(words));
    for (int64_t k = 0; k < n; ++k) f(words[k], row + k);
  }
}

// For a column whose window missed: a window is found by counting the words' upper halves, which
// takes no more memory however many rows there are.
void look_again(const Job& job, Panel& panel, int64_t c, uint32_t* words) {
  std::vector<int64_t> counts(1 << 16);
  each_word(job, panel, c, words, [&](uint32_t word, int64_t) { ++counts[word >> 16]; });
  uint32_t upper = 0;
  int64_t below = 0;
  while (below + counts[upper] < job.task.count) below += counts[upper++];
  panel.zeros[c] = below;
  panel.candidates[c].clear();
  each_word(job, panel, c, words, [&](uint32_t word, int64_t row) {
    panel.marks[row * panel.cols + c] = word >> 16 < upper ? kZero : 0;
    if (word >> 16 == upper) panel.candidates[c].push_back({word, row});
  });
}

// Turns the smallest candidates of each column to zeros.
void settle(const Job& job, Panel& panel, uint32_t* words) {
  for (int64_t c = 0; c < panel.cols; ++c) {
    auto& list = panel.candidates[c];
    int64_t wanted = job.task.count - panel.zeros[c];
    if (wanted < 0 || wanted > static_cast<int64_t>(list.size())) {
      look_again(job, panel, c, words);
      wanted = job.task.count - panel.zeros[c];
    }
    if (wanted > 0 && wanted < static_cast<int64_t>(list.size()))
      std::nth_element(list.begin(), list.begin() + wanted, list.end());
    for (int64_t k = 0; k < wanted; ++k) panel.marks[list[k].row * panel.cols + c] = kZero;
  }
}

template <class Item>
void write_zeros(const SparseTask& task, const Panel& panel) {
  Item* const data = reinterpret_cast<Item*>(task.data) + panel.first * task.col_stride;
  const uint8_t* const marks = panel.marks.data() + task.whole.first_row * panel.cols;
  if (task.col_stride == 1) {
    for (int64_t r = 0; r < task.rows; ++r) {
      Item* const to = data + r * task.row_stride;
      const uint8_t* m = marks + r * panel.cols;
      if constexpr (sizeof(Item) == 4) {
        capability().zero_row32(m, panel.cols, to);
      } else {
        for (int64_t c = 0; c < panel.cols; ++c) to[c] = m[c] & kZero ? Item{} : to[c];
      }
    }
    return;
  }
  // In tiles, so that neither side is walked across its cache lines.
  constexpr int64_t kTile = 64;
  for (int64_t r0 = 0; r0 < task.rows; r0 += kTile)
    for (int64_t c = 0; c < panel.cols; ++c)
      for (int64_t r = r0; r < std::min(task.rows, r0 + kTile); ++r)
        if (marks[r * panel.cols + c] & kZero)
          data[r * task.row_stride + c * task.col_stride] = Item{};
}

void write_panel(const SparseTask& task, const Panel& panel) {
  with_item_type(task.item_size, [&](auto item) { write_zeros<decltype(item)>(task, panel); });
}

// Settles panels of columns, by their numbers.
class Worker {
 public:
  explicit Worker(const Job& job)
      : job_(job), window_(likely_window(job.task.count, job.task.whole.rows)) {}

  void operator()(int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const SparseTask& task = job_.task;
      panel_.first = at * job_.width;
      panel_.cols = std::min(job_.width, task.cols - panel_.first);
      panel_.marks.resize(static_cast<size_t>(task.whole.rows * panel_.cols));
      panel_.sums.resize(static_cast<size_t>(panel_.cols));
      panel_.zeros.resize(static_cast<size_t>(panel_.cols));
      panel_.candidates.resize(static_cast<size_t>(panel_.cols));
      words_.resize(static_cast<size_t>(std::max(kWordsAtOnce, panel_.cols)));
      mark_panel(job_, panel_, window_, words_.data());
      settle(job_, panel_, words_.data());
      write_panel(task, panel_);
    }
  }

 private:
  const Job& job_;
  const Window window_;
  Panel panel_;
  std::vector<uint32_t> words_;
};

}  // namespace

void zero_smallest(const SparseTask& task, const ThreadPool& pool) {
  if (task.rows == 0 || task.cols == 0 || task.count == 0) return;
  Job job;
  job.task = task;
  memset(&job.words, 0, sizeof job.words);
  job.words.transform.kind = Kind::Words;
  job.words.transform.dtype = DType::Word;
  job.words.key = task.key;
  job.words.purpose = Purpose::Mask;
  const int64_t rows = task.whole.rows;
  job.width = std::clamp(kPanelBytes / rows / 16 * 16, kNarrowestPanel, kWidestPanel);
  const int64_t panels = (task.cols + job.width - 1) / job.width;
  parallel_for<Worker>(pool, {panels, rows * task.cols / kElementsPerWorker}, job);
}

}  // namespace fastinit::cpu
