// From the arguments of a distribution to what a fill task carries, for every device.
#pragma once

#include <string>

#include "core/task.h"

namespace fastinit::host {

// host/params.h under our floating-point environment: why these arguments are refused for a type
// of this name, or nothing; and what valid ones make of the words.
std::string check_arguments(Distribution distribution, DType dtype,
                            const double (&args)[kMaxArguments], const char* type);
Transform prepare_transform(Distribution distribution, DType dtype,
                            const double (&args)[kMaxArguments]);

}  // namespace fastinit::host
