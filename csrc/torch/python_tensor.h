// Which Python objects are tensors.
#pragma once

#include <Python.h>
#include <torch/csrc/autograd/python_variable.h>

namespace fastinit::ops {

// By its own class: THPVariable_Check takes an object's `__class__` for it, which of mocks and proxies
// says Tensor, and THPVariable_Unpack casts what it is given.
inline bool is_tensor(PyObject* object) {
  return THPVariable_CheckExact(object) ||
         PyType_IsSubtype(Py_TYPE(object), reinterpret_cast<PyTypeObject*>(THPVariableClass));
}

}  // namespace fastinit::ops
