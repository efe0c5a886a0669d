// Opening and closing a region compiled for a processor capability. Everything shared with other
// translation units is included before the region, so that no common inline function is compiled
// for a processor that may not be there; templates of core/ are included inside it.
#pragma once

#include "core/macros.h"

#define FASTINIT_PRAGMA(text) _Pragma(#text)

#if FASTINIT_X86_64 && defined(__clang__)
#define FASTINIT_TARGET_BEGIN(features) \
  FASTINIT_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define FASTINIT_TARGET_END FASTINIT_PRAGMA(clang attribute pop)
#elif FASTINIT_X86_64
#define FASTINIT_TARGET_BEGIN(features) \
  FASTINIT_PRAGMA(GCC push_options) FASTINIT_PRAGMA(GCC target(features))
#define FASTINIT_TARGET_END FASTINIT_PRAGMA(GCC pop_options)
#endif
