// The guard on a storage whose fills are still queued (bindings.cpp).
#pragma once

#include <cstdint>

namespace fastinit::ops {

// Makes every access to the storage's memory an error, or allows it again. `address` is that of the
// StorageImpl, `_cdata` in Python.
void guard_storage(uintptr_t address, bool closed);

}  // namespace fastinit::ops
