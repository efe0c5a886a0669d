#include "host/prepare_transform.h"

#include "host/fp_env.h"
#include "host/params.h"

namespace fastinit::host {
namespace {

// Out of line, or the compiler might move arithmetic across the change of environment.
__attribute__((noinline)) Transform make_transform_here(Distribution distribution, DType dtype,
                                                        const double (&args)[kMaxArguments]) {
  return make_transform(distribution, dtype, args);
}

__attribute__((noinline)) std::string check_here(Distribution distribution, DType dtype,
                                                 const double (&args)[kMaxArguments],
                                                 const char* type) {
  return check(distribution, dtype, args, type);
}

}  // namespace

std::string check_arguments(Distribution distribution, DType dtype,
                            const double (&args)[kMaxArguments], const char* type) {
  const FpEnv env;
  return check_here(distribution, dtype, args, type);
}

Transform prepare_transform(Distribution distribution, DType dtype,
                            const double (&args)[kMaxArguments]) {
  const FpEnv env;
  return make_transform_here(distribution, dtype, args);
}

}  // namespace fastinit::host
