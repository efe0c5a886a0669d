#include "torch/held.h"

#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>

#include "torch/python_tensor.h"

namespace py = pybind11;

namespace fastinit::ops {

namespace {

py::object id_of(PyObject* value) {
  auto id = py::reinterpret_steal<py::object>(PyLong_FromVoidPtr(value));
  if (!id) throw py::error_already_set();
  return id;
}

struct Walk {
  PyObject *waiting, *seen, *containers, *copies, *empty, *plain, *atoms, *module;

  // Whether this was met before. Throws what Python does.
  bool is_seen(PyObject* value) const {
    const Py_ssize_t before = PySet_GET_SIZE(seen);
    check(PySet_Add(seen, id_of(value).ptr()));
    return PySet_GET_SIZE(seen) == before;
  }

  void keep(PyObject* container) const {
    const auto copy = copied(container);
    check(PyList_Append(containers, container));
    check(PyList_Append(copies, copy.ptr()));
    if (PyDict_Check(copy.ptr())) {
      Py_ssize_t at = 0;
      PyObject *key = nullptr, *value = nullptr;
      while (PyDict_Next(copy.ptr(), &at, &key, &value)) sort(value);
    } else {
      for (const py::handle item : copy) sort(item.ptr());
    }
  }

 private:
  static void check(int status) {
    if (status < 0) throw py::error_already_set();
  }

  // Whether a class is in a set. A metaclass may hash otherwise, or not at all, or compare as it likes;
  // none of those that are in the sets does.
  static bool has(PyObject* set, PyObject* kind) {
    if (Py_TYPE(kind)->tp_hash != PyType_Type.tp_hash) return false;
    const int found = PySet_Contains(set, kind);
    check(found);
    return found == 1;
  }

  static py::object copied(PyObject* container) {
    PyObject* copy = nullptr;
    if (PyDict_CheckExact(container))
      copy = PyDict_Copy(container);
    else
      copy = PyObject_CallMethod(container, "copy", nullptr);
    if (copy == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(copy);
  }

  // Puts aside what a container holds; mostly that is numbers, and tables of hooks without any.
  void sort(PyObject* item) const {
    auto* kind = reinterpret_cast<PyObject*>(Py_TYPE(item));
    if (has(atoms, kind)) return;
    Py_ssize_t size = 1;
    if (has(plain, kind)) size = PyObject_Size(item);
    if (size < 0) throw py::error_already_set();
    check(PyList_Append(size == 0 ? empty : waiting, item));
  }

  friend py::object walk(const Walk&);
};

py::object walk(const Walk& to) {
  py::list others;
  for (Py_ssize_t left; (left = PyList_GET_SIZE(to.waiting)) > 0;) {
    const auto value = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(to.waiting, left - 1));
    Walk::check(PyList_SetSlice(to.waiting, left - 1, left, nullptr));
    if (to.is_seen(value.ptr())) continue;
    if (Walk::has(to.plain, reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())))) {
      to.keep(value.ptr());
      continue;
    }
    // By its own class: asking an object for its `__class__` may run code of somebody's, and fail.
    if (PyType_IsSubtype(Py_TYPE(value.ptr()), reinterpret_cast<PyTypeObject*>(to.module)))
      to.keep(value.attr("__dict__").ptr());
    else
      others.append(value);
  }
  return others;
}

// Appends the children of a module that have not been met.
void add_children(PyObject* children, PyObject* found, PyObject* seen) {
  const auto add = [&](PyObject* child) {
    if (child == Py_None) return;
    const Py_ssize_t before = PySet_GET_SIZE(seen);
    if (PySet_Add(seen, id_of(child).ptr()) != 0) throw py::error_already_set();
    if (PySet_GET_SIZE(seen) > before && PyList_Append(found, child) != 0)
      throw py::error_already_set();
  };
  if (PyDict_Check(children)) {
    Py_ssize_t at = 0;
    PyObject *name = nullptr, *child = nullptr;
    while (PyDict_Next(children, &at, &name, &child)) add(child);
    return;
  }
  for (const py::handle item : py::handle(children).attr("items")())  // of a scripted module
    add(item.cast<py::tuple>()[1].ptr());
}

// Whether two lists hold the same objects.
bool same(PyObject* now, PyObject* before) {
  const Py_ssize_t size = PyList_GET_SIZE(now);
  bool same = size == PyList_GET_SIZE(before);
  for (Py_ssize_t k = 0; same && k < size; ++k)
    same = PyList_GET_ITEM(now, k) == PyList_GET_ITEM(before, k);
  return same;
}

py::object listed(PyObject* table, const char* part) {
  const auto view = py::reinterpret_steal<py::object>(PyObject_CallMethod(table, part, nullptr));
  auto list = py::reinterpret_steal<py::object>(view ? PySequence_List(view.ptr()) : nullptr);
  if (!list) throw py::error_already_set();
  return list;
}

// Whether two containers are known to hold the same objects.
bool is_same(PyObject* now, PyObject* before) {
  if (PyList_CheckExact(now) && PyList_CheckExact(before)) return same(now, before);
  if (PyODict_CheckExact(now) && PyODict_CheckExact(before)) {  // in an order of its own
    if (PyODict_SIZE(now) != PyODict_SIZE(before)) return false;
    return PyODict_SIZE(now) == 0 ||
           (same(listed(now, "keys").ptr(), listed(before, "keys").ptr()) &&
            same(listed(now, "values").ptr(), listed(before, "values").ptr()));
  }
  if (!PyDict_CheckExact(now) || !PyDict_CheckExact(before)) return false;
  bool same = PyDict_GET_SIZE(now) == PyDict_GET_SIZE(before);
  Py_ssize_t at = 0, at_before = 0;
  PyObject *key, *value, *key_before, *value_before;
  while (same && PyDict_Next(now, &at, &key, &value) &&
         PyDict_Next(before, &at_before, &key_before, &value_before))
    same = key == key_before && value == value_before;
  return same;
}

// A copy of a tensor's hooks; None if there are none.
py::object hooks_of(PyObject* tensor, PyObject* name) {
  const auto hooks = py::reinterpret_steal<py::object>(PyObject_GenericGetAttr(tensor, name));
  if (!hooks) throw py::error_already_set();
  if (hooks.is_none() || py::len(hooks) == 0) return py::none();
  py::dict copy;
  if (PyDict_Update(copy.ptr(), hooks.ptr()) != 0) throw py::error_already_set();
  return copy;
}

}  // namespace

PyObject* modules_of(PyObject*, PyObject* root) {
  HANDLE_TH_ERRORS
  static PyObject* const name = PyUnicode_InternFromString("_modules");
  py::list found;
  py::set seen{py::make_tuple(id_of(root))};
  found.append(py::handle(root));
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(found.ptr()); ++k) {
    PyObject* module = PyList_GET_ITEM(found.ptr(), k);
    const auto children = py::reinterpret_steal<py::object>(PyObject_GetAttr(module, name));
    if (!children) throw py::error_already_set();
    add_children(children.ptr(), found.ptr(), seen.ptr());
  }
  return found.release().ptr();
  END_HANDLE_TH_ERRORS
}

PyObject* walk_held(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 8 || !PyList_Check(arguments[0]) || !PySet_Check(arguments[1]) ||
      !PyList_Check(arguments[2]) || !PyList_Check(arguments[3]) || !PyList_Check(arguments[4]) ||
      !PyAnySet_Check(arguments[5]) || !PyAnySet_Check(arguments[6]) || !PyType_Check(arguments[7]))
    return PyErr_Format(PyExc_TypeError,
                        "walk_held: expects a list, a set, three lists, two sets "
                        "of classes, and a class");
  return walk({arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5],
               arguments[6], arguments[7]})
      .release()
      .ptr();
  END_HANDLE_TH_ERRORS
}

PyObject* holds_same(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 2) return PyErr_Format(PyExc_TypeError, "holds_same: expects two containers");
  return PyBool_FromLong(is_same(arguments[0], arguments[1]));
  END_HANDLE_TH_ERRORS
}

PyObject* all_hold_same(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (count != 3 || !PyList_Check(arguments[0]) || !PyList_Check(arguments[1]) ||
      !PyDict_Check(arguments[2]))
    return PyErr_Format(PyExc_TypeError, "all_hold_same: expects two lists and a dict");
  PyObject *now = arguments[0], *before = arguments[1];
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(now) && k < PyList_GET_SIZE(before); ++k) {
    const auto id = id_of(PyList_GET_ITEM(now, k));
    PyObject* other = PyDict_GetItemWithError(arguments[2], id.ptr());
    if (other == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (other == nullptr) other = PyList_GET_ITEM(before, k);
    if (!is_same(PyList_GET_ITEM(now, k), other)) Py_RETURN_FALSE;
  }
  Py_RETURN_TRUE;
  END_HANDLE_TH_ERRORS
}

PyObject* attributes_of(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  if (PyType_Check(object)) Py_RETURN_NONE;
  PyObject* attributes = PyObject_GenericGetDict(object, nullptr);
  if (attributes != nullptr) return attributes;
  if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) return nullptr;
  PyErr_Clear();
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyObject* tensor_state(PyObject*, PyObject* object) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(is_tensor(object), "tensor_state: expects a tensor");
  const at::Tensor& tensor = THPVariable_Unpack(object);
  const auto owned = [](PyObject* made) {
    if (made == nullptr) throw python_error();
    return py::reinterpret_steal<py::object>(made);
  };
  static PyObject* const hooks = PyUnicode_InternFromString("_backward_hooks");
  static PyObject* const after = PyUnicode_InternFromString("_post_accumulate_grad_hooks");
  const auto marks = owned(PyObject_GenericGetDict(object, nullptr));
  const bool is_leaf = tensor.is_leaf();
  const auto data = owned(THPVariable_Wrap(tensor.variable_data()));
  const auto grad = is_leaf ? owned(THPVariable_Wrap(tensor.grad())) : py::none();
  const int64_t version = tensor.is_inference() ? -1 : tensor._version();
  return py::make_tuple(py::handle(object), data, is_leaf, grad, tensor.requires_grad(),
                        owned(PyDict_Copy(marks.ptr())), hooks_of(object, hooks),
                        hooks_of(object, after), version)
      .release()
      .ptr();
  END_HANDLE_TH_ERRORS
}

PyObject* set_version(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == 2 && is_tensor(args[0]), "set_version: expects a tensor and a number");
  const int64_t version = PyLong_AsLongLong(args[1]);
  if (version == -1 && PyErr_Occurred() != nullptr) throw python_error();
  const at::Tensor& tensor = THPVariable_Unpack(args[0]);
  if (version >= 0 && !tensor.is_inference()) {
    c10::VariableVersion counter = tensor.unsafeGetTensorImpl()->version_counter();  // the same one
    counter.set_version(version);
  }
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

}  // namespace fastinit::ops
