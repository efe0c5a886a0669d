#include "torch/storage_guard.h"

#include <c10/core/StorageImpl.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/headeronly/version.h>

#include <optional>

namespace fastinit::ops {

PyObject* storage_address(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  if (!THPVariable_Check(tensor) || !THPVariable_Unpack(tensor).has_storage())
    return PyLong_FromLong(0);
  return PyLong_FromVoidPtr(THPVariable_Unpack(tensor).storage().unsafeGetStorageImpl());
  END_HANDLE_TH_ERRORS
}

static PyObject* tuple_of(at::IntArrayRef numbers) {
  PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(numbers.size()));
  if (tuple == nullptr) throw python_error();
  for (size_t k = 0; k < numbers.size(); ++k)
    PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(k), PyLong_FromLongLong(numbers[k]));
  return tuple;
}

PyObject* layout_of(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(THPVariable_Check(object), "layout_of: expects a tensor");
  const at::Tensor& tensor = THPVariable_Unpack(object);
  auto* dtype = reinterpret_cast<PyObject*>(torch::getTHPDtype(tensor.scalar_type()));
  return Py_BuildValue("(NNLO)", tuple_of(tensor.sizes()), tuple_of(tensor.strides()),
                       static_cast<long long>(tensor.storage_offset()), dtype);
  END_HANDLE_TH_ERRORS
}

#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 12
// Here torch can close a storage but has no function that opens it again, and the members to do it
// with are private. An explicit instantiation may name them, and defines the friend, which can.
void open_storage(c10::StorageImpl& storage);

template <bool c10::StorageImpl::* closed, void (c10::StorageImpl::*refresh)()>
struct StorageMembers {
  friend void open_storage(c10::StorageImpl& storage) {
    storage.*closed = false;
    storage.get_extra_meta().custom_data_ptr_error_msg_ = std::nullopt;
    (storage.*refresh)();
  }
};

template struct StorageMembers<&c10::StorageImpl::throw_on_immutable_data_ptr_,
                               &c10::StorageImpl::refresh_has_data_ptr_check>;
#else
static void open_storage(c10::StorageImpl& storage) { storage.clear_data_ptr_access_error_msg_(); }
#endif

void guard_storage(uintptr_t address, bool closed) {
  auto& storage = *reinterpret_cast<c10::StorageImpl*>(address);
  if (closed)
    storage.release_data_and_set_meta_custom_data_ptr_error_msg_(
        "fill pending: this memory is filled when the fastinit.batch(), initialize_ or materialize "
        "that allocated it ends. Read it afterwards, or by a torch function on the thread that "
        "runs it.");
  else
    open_storage(storage);
}

}  // namespace fastinit::ops
