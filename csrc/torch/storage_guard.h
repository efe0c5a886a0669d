// The storages of tensors, and the guard on one whose fills are still queued (bindings.cpp).
#pragma once

#include <Python.h>

namespace fastinit::ops {

// Recordings ask these for every call or tensor, so they are methods as CPython has them.

// The address of a tensor's StorageImpl, `_cdata` in Python; 0 for what has none.
PyObject* storage_address(PyObject* module, PyObject* tensor);

// (size, stride, offset, dtype) of a strided tensor.
PyObject* layout_of(PyObject* module, PyObject* tensor);

// The same of a tensor with memory that holds its values as they are (nothing lazily conjugated or
// negated) and is handled here; None for others, and inference tensors.
PyObject* ordinary_layout(PyObject* module, PyObject* tensor);

// What is wrong with the storage of a tensor (tasks.h), or None: also of what has none of its own,
// as wrappers and fake tensors, and is not handled here.
PyObject* storage_fault(PyObject* module, PyObject* tensor);

// tensor_on(address, layout): a tensor of such a layout on the StorageImpl at an address to which
// the caller has a weak reference; None if it is dead, or has not so much memory.
PyObject* tensor_on(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

// reserve(size, stride, dtype, space): a tensor on the CPU whose memory is address space alone until
// somebody touches it, of an AddressSpace if one is given. RuntimeError if the system refuses to give
// so much.
PyObject* reserve(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

// Takes a weak reference to a tensor's StorageImpl: (an object that has it for as long as it lives,
// the address, its bytes, whether it is resizable).
PyObject* hold_storage(PyObject* module, PyObject* tensor);

// guard_storage(address, closed, message): makes every access to the memory of the StorageImpl at an
// address an error, which says this if something is given, or allows it again.
PyObject* guard_storage(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

// watch_storage(address): an object by which it can be told from now on whether somebody has got a
// pointer to write with to the memory of the StorageImpl at an address, which everybody may. None if
// that cannot be told, as its memory is not as torch's allocators give it.
PyObject* watch_storage(PyObject* module, PyObject* address);

// unwatch_storage(watch): whether somebody has; False of a storage that is dead. The last one to watch
// it leaves the storage as it was before.
PyObject* unwatch_storage(PyObject* module, PyObject* watch);

}  // namespace fastinit::ops
