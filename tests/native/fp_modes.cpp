// Reads and sets floating-point modes, of the calling thread and of every thread of the OpenMP pool
// that the extension (built by the same compiler) runs its fills on. For ctypes.
#include <cfenv>
#include <cstdint>

#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

// Bits of a mode: rounding (0 nearest, 1 down, 2 up, 3 to zero), 4 FTZ, 8 DAZ.
constexpr int kRounding[4] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};

int get_mode() {
  int mode = 0;
  for (int k = 0; k < 4; ++k)
    if (std::fegetround() == kRounding[k]) mode = k;
#if defined(__x86_64__)
  const unsigned csr = _mm_getcsr();
  mode |= (csr & 0x8000 ? 4 : 0) | (csr & 0x0040 ? 8 : 0);
#elif defined(__aarch64__)
  uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  mode |= fpcr >> 24 & 1 ? 12 : 0;
#endif
  return mode;
}

void set_mode(int mode) {
  std::fesetround(kRounding[mode & 3]);
#if defined(__x86_64__)
  _mm_setcsr((_mm_getcsr() & ~0x8040u) | (mode & 4 ? 0x8000 : 0) | (mode & 8 ? 0x0040 : 0));
#elif defined(__aarch64__)
  uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  fpcr = (fpcr & ~(uint64_t{1} << 24)) | (mode & 12 ? uint64_t{1} << 24 : 0);
  asm volatile("msr fpcr, %0" : : "r"(fpcr));
#endif
}

// Sums that end differently in every mode.
void probe(float out[3]) {
  volatile float one = 1, third = 3, tiny = 1e-40f;
  volatile float up = one / third, down = -one / third, flushed = tiny * one;
  out[0] = up;
  out[1] = down;
  out[2] = flushed;
}

}  // namespace

extern "C" {

int fp_get_mode() { return get_mode(); }
void fp_set_mode(int mode) { set_mode(mode); }

// On each of `count` threads of the pool: its mode and thread id, then, where `mode` is not -1, the
// new mode; what arithmetic makes of it. Returns the number of threads there were.
int fp_pool(int count, int mode, int* modes, int64_t* threads, float* probes) {
  int working = 0;
#pragma omp parallel num_threads(count)
  {
    int me;
#pragma omp atomic capture
    me = working++;
    modes[me] = get_mode();
    threads[me] = syscall(SYS_gettid);
    if (mode >= 0) set_mode(mode);
    probe(probes + 3 * me);
  }
  return working;
}
}
