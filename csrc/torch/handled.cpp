#include "torch/handled.h"

#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Exceptions.h>

#include "torch/backend.h"
#include "torch/python_tensor.h"

namespace fastinit::ops {

bool handled(const at::Tensor& tensor) {
  return tensor.layout() == at::kStrided && !tensor.is_nested() &&
         (tensor.is_meta() || backend_of(tensor.device()) != nullptr);
}

PyObject* handled_dtype(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  if (!is_tensor(tensor) || !handled(THPVariable_Unpack(tensor))) Py_RETURN_NONE;
  auto* dtype = torch::getTHPDtype(THPVariable_Unpack(tensor).scalar_type());
  return Py_NewRef(reinterpret_cast<PyObject*>(dtype));
  END_HANDLE_TH_ERRORS
}

}  // namespace fastinit::ops
