// The storages of tensors, and the guard on one whose fills are still queued (bindings.cpp).
#pragma once

#include <Python.h>

#include <cstdint>

namespace fastinit::ops {

// Recordings ask these two for every call, so they are methods as CPython has them.

// The address of a tensor's StorageImpl, `_cdata` in Python; 0 for what has none.
PyObject* storage_address(PyObject* module, PyObject* tensor);

// (size, stride, offset, dtype) of a strided tensor.
PyObject* layout_of(PyObject* module, PyObject* tensor);

// Makes every access to the storage's memory an error, or allows it again. `address` is that of the
// StorageImpl, `_cdata` in Python.
void guard_storage(uintptr_t address, bool closed);

}  // namespace fastinit::ops
