// Plain loops that a compiler writes for the vectors of the capability it compiles for. Included
// once per capability, inside its target region and namespace; dispatch.h lists them.

double squares_of_run(const float* x, int64_t n) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) sums[j] += static_cast<double>(x[i + j]) * x[i + j];
  double sum = 0;
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  for (const double s : sums) sum += s;
  return sum;
}

void squares_of_rows(const float* x, int64_t rows, int64_t pitch, int64_t n, double* sums) {
  for (int64_t r = 0; r < rows; ++r, x += pitch)
    for (int64_t c = 0; c < n; ++c) sums[c] += static_cast<double>(x[c]) * x[c];
}

// Words are compared as ordered signed integers, which every instruction set has.
void mark_words(const uint32_t* words, int64_t n, uint64_t low, uint64_t high, uint8_t* marks) {
  const auto flip = [](uint32_t w) { return static_cast<int32_t>(w ^ 0x80000000u); };
  // `low` may be 2^32, which no word reaches; then all are below.
  const bool all = low >> 32 != 0, open = high >> 32 != 0;
  const int32_t low_word = flip(static_cast<uint32_t>(low));
  const int32_t high_word = flip(static_cast<uint32_t>(high));
  const uint8_t outside = open ? kCandidate : 0;
  for (int64_t k = 0; k < n; ++k) {
    const int32_t w = flip(words[k]);
    const uint8_t inside = w < high_word ? kCandidate : outside;
    marks[k] = all || w < low_word ? kZero : inside;
  }
}

void count_zeros(const uint8_t* marks, int64_t rows, int64_t cols, uint8_t* sums, int64_t* zeros) {
  for (int64_t c = 0; c < cols; ++c) sums[c] = 0;
  for (int64_t r = 0; r < rows; ++r, marks += cols)
    for (int64_t c = 0; c < cols; ++c) sums[c] = static_cast<uint8_t>(sums[c] + (marks[c] & kZero));
  for (int64_t c = 0; c < cols; ++c) zeros[c] += sums[c];
}

void zero_row32(const uint8_t* marks, int64_t cols, uint32_t* to) {
  for (int64_t c = 0; c < cols; ++c) to[c] = marks[c] & kZero ? 0 : to[c];
}
