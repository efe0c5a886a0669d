#include "host/prepare_transform.h"

#include "host/fp_env.h"
#include "host/params.h"

namespace fastinit::host {
namespace {

// Out of line, or the compiler might move arithmetic across the change of environment.
__attribute__((noinline)) Transform make_transform_here(Kind distribution, DType dtype,
                                                        const double (&args)[4]) {
  return make_transform(distribution, dtype, args);
}

}  // namespace

Transform prepare_transform(Kind distribution, DType dtype, const double (&args)[4]) {
  const FpEnv env;
  return make_transform_here(distribution, dtype, args);
}

}  // namespace fastinit::host
