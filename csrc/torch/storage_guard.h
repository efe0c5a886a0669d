// The guard that `batch()` puts on a storage whose fills are still queued (bindings.cpp).
#pragma once

#include <cstdint>

namespace fastinit::ops {

// Whether this torch can take a guard off again; without that there is none.
bool can_guard_storage();

// Makes every access to the storage's memory an error, or allows it again. `storage` is the address
// of the StorageImpl, `_cdata` in Python.
void guard_storage(uintptr_t storage, bool closed);

}  // namespace fastinit::ops
