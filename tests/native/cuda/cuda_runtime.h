// Found in place of the toolkit's header when kernels are compiled as C++.
#pragma once

#include "../cuda_shim.h"
