// What every call of a random function asks of its tensor, in one call from Python (bindings.cpp).
#pragma once

#include <ATen/core/Tensor.h>
#include <Python.h>

namespace fastinit::ops {

// Whether a tensor is strided, and on a device of ours or meta.
bool handled(const at::Tensor& tensor);

// The dtype of a strided tensor on a device of ours; None for everything else. A method as CPython
// has them: pybind11's way of calling takes longer than the answer.
PyObject* handled_dtype(PyObject* module, PyObject* tensor);

}  // namespace fastinit::ops
