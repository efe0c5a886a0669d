// From the arguments of a distribution to what a fill task carries, for every device.
#pragma once

#include "core/task.h"

namespace fastinit::host {

// make_transform of host/params.h under our floating-point environment.
Transform prepare_transform(Kind distribution, DType dtype, const double (&args)[4]);

}  // namespace fastinit::host
