#include "torch/storage_guard.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/impl/COW.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Exceptions.h>
#include <torch/headeronly/version.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "cpu/reserve.h"
#include "torch/handled.h"
#include "torch/python_tensor.h"
#include "torch/tasks.h"

namespace fastinit::ops {

// Below this many bytes an allocator has some at hand, and is faster than the system.
constexpr size_t kLeastReserved = size_t{1} << 20;

PyObject* storage_address(PyObject*, PyObject* tensor) {
  HANDLE_TH_ERRORS
  if (!is_tensor(tensor) || !THPVariable_Unpack(tensor).has_storage()) return PyLong_FromLong(0);
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

static PyObject* layout(const at::Tensor& tensor) {
  auto* dtype = reinterpret_cast<PyObject*>(torch::getTHPDtype(tensor.scalar_type()));
  return Py_BuildValue("(NNLO)", tuple_of(tensor.sizes()), tuple_of(tensor.strides()),
                       static_cast<long long>(tensor.storage_offset()), dtype);
}

PyObject* layout_of(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(is_tensor(object), "layout_of: expects a tensor");
  return layout(THPVariable_Unpack(object));
  END_HANDLE_TH_ERRORS
}

PyObject* ordinary_layout(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  if (!is_tensor(object)) Py_RETURN_NONE;
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (!handled(tensor) || tensor.is_meta() || tensor.is_conj() || tensor.is_neg() ||
      tensor.is_inference())
    Py_RETURN_NONE;
  return layout(tensor);
  END_HANDLE_TH_ERRORS
}

PyObject* storage_fault(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  if (!is_tensor(object)) Py_RETURN_NONE;
  const at::Tensor& tensor = THPVariable_Unpack(object);
  // What a wrapper calls its storage is not where its values lie.
  constexpr c10::DispatchKeySet wrappers{c10::DispatchKey::Python, c10::DispatchKey::Functionalize,
                                         c10::DispatchKey::FuncTorchBatched,
                                         c10::DispatchKey::FuncTorchGradWrapper};
  if (!handled(tensor) || tensor.is_meta() || tensor.key_set().has_any(wrappers)) Py_RETURN_NONE;
  const std::string fault = storage_fault(tensor);
  if (fault.empty()) Py_RETURN_NONE;
  return PyUnicode_FromStringAndSize(fault.data(), static_cast<Py_ssize_t>(fault.size()));
  END_HANDLE_TH_ERRORS
}

static std::vector<int64_t> numbers_of(PyObject* tuple) {
  std::vector<int64_t> numbers(static_cast<size_t>(PyTuple_GET_SIZE(tuple)));
  for (size_t k = 0; k < numbers.size(); ++k)
    numbers[k] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, static_cast<Py_ssize_t>(k)));
  return numbers;
}

PyObject* tensor_on(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  PyObject *size, *stride, *dtype;
  long long offset = 0;
  TORCH_CHECK_TYPE(count == 2 && PyLong_Check(arguments[0]) && PyTuple_Check(arguments[1]),
                   "tensor_on: expects an address and a layout");
  auto* impl = static_cast<c10::StorageImpl*>(PyLong_AsVoidPtr(arguments[0]));
  if (!PyArg_ParseTuple(arguments[1], "O!O!LO", &PyTuple_Type, &size, &PyTuple_Type, &stride,
                        &offset, &dtype))
    return nullptr;
  TORCH_CHECK_TYPE(THPDtype_Check(dtype), "tensor_on: a layout's last is a dtype");
  TORCH_CHECK_VALUE(offset >= 0, "tensor_on: an offset is not negative, got ", offset);
  auto weak = c10::weak_intrusive_ptr<c10::StorageImpl>::reclaim(impl);
  auto storage = weak.lock();
  weak.release();  // it stays the caller's
  if (!storage) Py_RETURN_NONE;
  const auto type = reinterpret_cast<THPDtype*>(dtype)->scalar_type;
  const auto sizes = numbers_of(size), strides = numbers_of(stride);
  if (PyErr_Occurred() != nullptr) return nullptr;
  // Somebody may have let its memory go.
  if (at::detail::computeStorageNbytes(sizes, strides, c10::elementSize(type),
                                       static_cast<size_t>(offset)) > storage->nbytes())
    Py_RETURN_NONE;
  const c10::DispatchKeySet keys(c10::computeDispatchKey(type, at::kStrided, storage->device()));
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(std::move(storage)), keys, c10::scalarTypeToTypeMeta(type));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset);
  return THPVariable_Wrap(std::move(tensor));
  END_HANDLE_TH_ERRORS
}

PyObject* reserve(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE((count == 3 || count == 4) && PyTuple_Check(arguments[0]) &&
                       PyTuple_Check(arguments[1]) && THPDtype_Check(arguments[2]),
                   "reserve: expects a size, strides and a dtype, and perhaps an AddressSpace");
  const auto type = reinterpret_cast<THPDtype*>(arguments[2])->scalar_type;
  const auto sizes = numbers_of(arguments[0]), strides = numbers_of(arguments[1]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  const size_t bytes = at::detail::computeStorageNbytes(sizes, strides, c10::elementSize(type));
  if (bytes < kLeastReserved || !cpu::can_reserve())
    return THPVariable_Wrap(
        at::empty_strided(sizes, strides, at::TensorOptions(at::kCPU).dtype(type)));
  cpu::AddressSpace own(0);
  auto& space = count == 4 ? pybind11::cast<cpu::AddressSpace&>(arguments[3]) : own;
  auto reserved = space.reserve(bytes);
  TORCH_CHECK(reserved, "reserve: ", bytes, " bytes: ", std::strerror(errno));
  void* begin = reserved->begin();
  const auto free = [](void* held) { delete static_cast<cpu::Reserved*>(held); };
  c10::DataPtr data(begin, reserved.release(), free, at::kCPU);
  auto storage =
      c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), bytes,
                                            std::move(data), c10::GetAllocator(at::kCPU), true);
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(std::move(storage)), c10::DispatchKeySet(c10::DispatchKey::CPU),
      c10::scalarTypeToTypeMeta(type));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides);
  return THPVariable_Wrap(std::move(tensor));
  END_HANDLE_TH_ERRORS
}

static void let_go(PyObject* hold) {
  c10::raw::weak_intrusive_ptr::decref(
      static_cast<c10::StorageImpl*>(PyCapsule_GetPointer(hold, nullptr)));
}

PyObject* hold_storage(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(is_tensor(object), "hold_storage: expects a tensor");
  const c10::Storage& storage = THPVariable_Unpack(object).storage();
  auto* impl = storage.unsafeGetStorageImpl();
  PyObject* hold = PyCapsule_New(impl, nullptr, let_go);
  if (hold == nullptr) return nullptr;
  c10::raw::weak_intrusive_ptr::incref(impl);
  return Py_BuildValue("(NNnO)", hold, PyLong_FromVoidPtr(impl),
                       static_cast<Py_ssize_t>(storage.nbytes()),
                       storage.resizable() ? Py_True : Py_False);
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

PyObject* guard_storage(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE((count == 2 || count == 3) && PyLong_Check(arguments[0]) &&
                       PyBool_Check(arguments[1]) && (count == 2 || PyUnicode_Check(arguments[2])),
                   "guard_storage: expects an address, a bool, and perhaps a message");
  auto& storage = *static_cast<c10::StorageImpl*>(PyLong_AsVoidPtr(arguments[0]));
  const char* message =
      "fill pending: this memory is filled when the fastinit.batch(), initialize_ or materialize "
      "that allocated it ends. Read it afterwards, or by a torch function on the thread that "
      "runs it.";
  if (count == 3) message = PyUnicode_AsUTF8(arguments[2]);
  if (message == nullptr) return nullptr;
  if (arguments[1] == Py_True)
    storage.release_data_and_set_meta_custom_data_ptr_error_msg_(message);
  else
    open_storage(storage);
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

namespace {

// How many watch a storage; batches and recordings inside each other watch the same. Only with the
// GIL held.
std::unordered_map<c10::StorageImpl*, int>& watchers() {
  static auto* const found = new std::unordered_map<c10::StorageImpl*, int>;
  return *found;
}

bool is_lazy(c10::StorageImpl& storage) {
  return c10::impl::cow::is_cow_data_ptr(storage._mutable_data_ptr_no_checks());
}

// Lets a weak reference to a storage go, and says whether somebody has got a pointer meanwhile; who
// is the last to watch leaves the storage as it was.
bool unwatch(c10::StorageImpl* impl) {
  const auto weak = c10::weak_intrusive_ptr<c10::StorageImpl>::reclaim(impl);
  const bool last = --watchers()[impl] == 0;
  if (last) watchers().erase(impl);
  const auto storage = weak.lock();
  if (!storage) return false;
  const bool reached = !is_lazy(*storage);
  if (last && !reached) try {
      storage->mutable_data_ptr();
    } catch (const c10::Error&) {  // another batch or recording guards it, and writes it in the end
    }
  return reached;
}

void forget_watch(PyObject* watch) {
  if (PyCapsule_GetContext(watch) == nullptr)
    unwatch(static_cast<c10::StorageImpl*>(PyCapsule_GetPointer(watch, nullptr)));
}

}  // namespace

// torch's own copy-on-write tells: whoever asks for a pointer to write with gets memory of its own
// first. Where nobody shares it, that is the memory that was there.
PyObject* watch_storage(PyObject*, PyObject* address) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(PyLong_Check(address), "watch_storage: expects an address");
  auto* impl = static_cast<c10::StorageImpl*>(PyLong_AsVoidPtr(address));
  const auto known = watchers().find(impl);
  if (known == watchers().end()) {
    if (is_lazy(*impl) || !c10::impl::cow::lazy_clone_storage(*impl)) Py_RETURN_NONE;
  } else if (!is_lazy(*impl)) {
    Py_RETURN_NONE;
  }
  PyObject* watch = PyCapsule_New(impl, nullptr, forget_watch);
  if (watch == nullptr) return nullptr;
  c10::raw::weak_intrusive_ptr::incref(impl);
  ++watchers()[impl];
  return watch;
  END_HANDLE_TH_ERRORS
}

PyObject* unwatch_storage(PyObject*, PyObject* watch) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(PyCapsule_IsValid(watch, nullptr) && PyCapsule_GetContext(watch) == nullptr,
                   "unwatch_storage: expects what watch_storage has given, once");
  auto* impl = static_cast<c10::StorageImpl*>(PyCapsule_GetPointer(watch, nullptr));
  PyCapsule_SetContext(watch, impl);
  return PyBool_FromLong(unwatch(impl) ? 1 : 0);
  END_HANDLE_TH_ERRORS
}

}  // namespace fastinit::ops
