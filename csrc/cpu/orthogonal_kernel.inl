// Gaussian matrix -> orthogonal matrix in place, over the struct Lanes of the including namespace.
//
// Reflections are applied from the last to the first, kReflections at a time (core/reflector.h). The
// columns to the right already hold Q, those to the left still the Gaussian.

template <class L>
FASTINIT_INLINE typename L::F load_lanes(const typename L::Real* from) {
  typename L::F x;
  memcpy(&x, from, sizeof x);
  return x;
}

template <class L>
FASTINIT_INLINE void store_lanes(typename L::Real* to, typename L::F x) {
  memcpy(to, &x, sizeof x);
}

// The block's vectors, row by row and zero above the diagonal, and the small matrices they make.
template <class Real>
struct Block : ReflectionBlock<Real> {
  Real* rows;      // kReflections elements each
  int64_t height;  // how many
};

// Copies the columns from k on, which are columns of the Gaussian, and makes reflectors of them.
template <class Real>
void make_block(Block<Real>& block, const Real* matrix, int64_t pitch, int64_t k, int width,
                double gain) {
  double dot[kReflections][kReflections] = {};
  for (int64_t i = 0; i < block.height; ++i) {
    const Real* from = matrix + (k + i) * pitch + k;
    Real* to = block.rows + i * kReflections;
    double x[kReflections];
    for (int s = 0; s < kReflections; ++s) {
      to[s] = s < width && s <= i ? from[s] : Real(0);
      x[s] = static_cast<double>(to[s]);
    }
    for (int s = 0; s < kReflections; ++s)
      for (int t = 0; t < kReflections; ++t) dot[s][t] += x[s] * x[t];
  }
  // Of a matrix of fewer rows than a block, the rows that are not there count as zeros.
  for (int64_t i = block.height; i < kReflections; ++i)
    for (int s = 0; s < kReflections; ++s) block.rows[i * kReflections + s] = Real(0);
  make_reflection_block(block, block.rows, dot, width, gain);
}

// The block's own columns, which the reflections before it left as columns of the identity.
template <class Real>
void write_own(const Block<Real>& block, Real* matrix, int64_t pitch, int64_t k, int width) {
  for (int64_t i = 0; i < block.height; ++i) {
    const Real* v = block.rows + i * kReflections;
    Real* to = matrix + (k + i) * pitch + k;
    Real sum[kReflections] = {};
    for (int s = 0; s < kReflections; ++s)
      for (int t = 0; t < kReflections; ++t) sum[t] -= v[s] * block.own[s][t];
    if (i < width) sum[i] += block.diagonal[i];
    for (int t = 0; t < width; ++t) to[t] = sum[t];
  }
}

// `vectors` vectors of columns from `c` on, whose first kReflections rows are still zero (and not there).
template <class L, int vectors>
FASTINIT_INLINE void reflect_columns(const Block<typename L::Real>& block, typename L::Real* c,
                                     int64_t pitch) {
  using F = typename L::F;
  F sum[kReflections][vectors];
  for (int s = 0; s < kReflections; ++s)
    for (int j = 0; j < vectors; ++j) sum[s][j] = L::set(0);
  for (int64_t i = kReflections; i < block.height; ++i) {
    const auto* v = block.rows + i * kReflections;
    F q[vectors];
    FASTINIT_UNROLL
    for (int j = 0; j < vectors; ++j) q[j] = load_lanes<L>(c + i * pitch + j * L::kWidth);
    FASTINIT_UNROLL
    for (int s = 0; s < kReflections; ++s) {
      const F vs = L::set(v[s]);
      FASTINIT_UNROLL
      for (int j = 0; j < vectors; ++j) sum[s][j] = L::fma(vs, q[j], sum[s][j]);
    }
  }
  // S^-1 is upper triangular: row s needs the sums from s on, so it can take the place of sum s.
  FASTINIT_UNROLL
  for (int s = 0; s < kReflections; ++s) {
    FASTINIT_UNROLL
    for (int j = 0; j < vectors; ++j) {
      F w = L::mul(L::set(block.inverse[s][s]), sum[s][j]);
      FASTINIT_UNROLL
      for (int t = s + 1; t < kReflections; ++t)
        w = L::fma(L::set(block.inverse[s][t]), sum[t][j], w);
      sum[s][j] = w;
    }
  }
  for (int64_t i = 0; i < block.height; ++i) {
    const auto* v = block.rows + i * kReflections;
    F q[vectors];
    FASTINIT_UNROLL
    for (int j = 0; j < vectors; ++j)
      q[j] = i < kReflections ? L::set(0) : load_lanes<L>(c + i * pitch + j * L::kWidth);
    FASTINIT_UNROLL
    for (int s = 0; s < kReflections; ++s) {
      const F vs = L::set(v[s]);
      FASTINIT_UNROLL
      for (int j = 0; j < vectors; ++j) q[j] = L::negative_fma(vs, sum[s][j], q[j]);
    }
    FASTINIT_UNROLL
    for (int j = 0; j < vectors; ++j) store_lanes<L>(c + i * pitch + j * L::kWidth, q[j]);
  }
}

template <class L>
void reflect(const Reflection& task) {
  using Real = typename L::Real;
  Real* const matrix = static_cast<Real*>(task.matrix);
  Block<Real> block;
  block.rows = static_cast<Real*>(task.panel);
  for (int64_t k = (task.narrow - 1) / kReflections * kReflections; k >= 0; k -= kReflections) {
    const int width =
        static_cast<int>(task.narrow - k < kReflections ? task.narrow - k : kReflections);
    block.height = task.tall - k;
    make_block(block, matrix, task.pitch, k, width, task.gain);
    write_own(block, matrix, task.pitch, k, width);
    // The last vectors reach into the padding.
    Real* c = matrix + k * task.pitch + k + kReflections;
    int64_t left = (task.narrow - k - kReflections + L::kWidth - 1) / L::kWidth;
    for (; left >= 3; left -= 3, c += 3 * L::kWidth) reflect_columns<L, 3>(block, c, task.pitch);
    if (left == 2) reflect_columns<L, 2>(block, c, task.pitch);
    if (left == 1) reflect_columns<L, 1>(block, c, task.pitch);
  }
}

void reflect32(const Reflection& task) { reflect<Lanes::F32>(task); }
void reflect64(const Reflection& task) { reflect<Lanes::F64>(task); }
