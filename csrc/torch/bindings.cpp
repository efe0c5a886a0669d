// The Python face of the extension module: introspection, and what batch() and materialize()
// need of the memory of storages. The operators are torch.ops.fastinit.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>
#if FASTINIT_CUDA
#include <cuda_runtime_api.h>
#endif

#include <array>
#include <string>
#include <type_traits>
#include <vector>

#include "core/distributions.h"
#include "core/philox.h"
#include "cpu/dispatch.h"
#include "cpu/huge_pages.h"
#include "host/self_overlap.h"
#include "torch/handled.h"
#include "torch/storage_guard.h"

namespace py = pybind11;
using namespace fastinit;

namespace {

py::tuple philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const Words4 out = philox4x32({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return py::make_tuple(out.w[0], out.w[1], out.w[2], out.w[3]);
}

// fold(key, data, purpose), which models ask twice for each weight: a method as CPython has them.
PyObject* fold(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  constexpr struct {
    const char* name;
    Purpose purpose;
  } kPurposes[] = {{"int", Purpose::FoldInt}, {"str", Purpose::FoldStr}, {"split", Purpose::Split}};
  if (count != 3 || !PyUnicode_Check(arguments[2]))
    return PyErr_Format(PyExc_TypeError, "fold: expects a key, a word and a purpose");
  const auto key = PyLong_AsUnsignedLongLong(arguments[0]);
  const auto data = PyLong_AsUnsignedLongLong(arguments[1]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  for (const auto& [name, purpose] : kPurposes)
    if (PyUnicode_CompareWithASCIIString(arguments[2], name) == 0)
      return PyLong_FromUnsignedLongLong(derive(key, data, purpose));
  return PyErr_Format(PyExc_ValueError, "fold: purpose must be 'int', 'str' or 'split', not %R",
                      arguments[2]);
}

// sort_held(items, containers, atoms): of what a module holds, thirty things mostly, the containers
// that are empty, and what may hold something.
PyObject* sort_held(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 3 || !PyAnySet_Check(arguments[1]) || !PyAnySet_Check(arguments[2]))
    return PyErr_Format(PyExc_TypeError, "sort_held: expects an iterable and two sets");
  const auto given = py::reinterpret_borrow<py::object>(arguments[0]);
  const auto items = py::reinterpret_steal<py::object>(PySequence_List(given.ptr()));
  if (!items) return nullptr;
  const auto empty = py::reinterpret_steal<py::object>(PyList_New(0));
  const auto further = py::reinterpret_steal<py::object>(PyList_New(0));
  if (!empty || !further) return nullptr;
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(items.ptr()); ++k) {
    PyObject* item = PyList_GET_ITEM(items.ptr(), k);
    auto* kind = reinterpret_cast<PyObject*>(Py_TYPE(item));
    const int atom = PySet_Contains(arguments[2], kind);
    if (atom < 0) return nullptr;
    if (atom == 1) continue;
    const int container = PySet_Contains(arguments[1], kind);
    if (container < 0) return nullptr;
    const Py_ssize_t size = container == 1 ? PyObject_Size(item) : 1;
    if (size < 0 || PyList_Append(size == 0 ? empty.ptr() : further.ptr(), item) < 0)
      return nullptr;
  }
  return PyTuple_Pack(2, empty.ptr(), further.ptr());
}

// holds_same(now, before): whether a dict or list, of no subclass, holds the objects of another in
// their order; of everything else it is not known, and False.
PyObject* holds_same(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 2) return PyErr_Format(PyExc_TypeError, "holds_same: expects two containers");
  PyObject *now = arguments[0], *before = arguments[1];
  if (PyList_CheckExact(now) && PyList_CheckExact(before)) {
    const Py_ssize_t size = PyList_GET_SIZE(now);
    bool same = size == PyList_GET_SIZE(before);
    for (Py_ssize_t k = 0; same && k < size; ++k)
      same = PyList_GET_ITEM(now, k) == PyList_GET_ITEM(before, k);
    return PyBool_FromLong(same);
  }
  if (!PyDict_CheckExact(now) || !PyDict_CheckExact(before)) Py_RETURN_FALSE;
  bool same = PyDict_GET_SIZE(now) == PyDict_GET_SIZE(before);
  Py_ssize_t at = 0, at_before = 0;
  PyObject *key, *value, *key_before, *value_before;
  while (same && PyDict_Next(now, &at, &key, &value) &&
         PyDict_Next(before, &at_before, &key_before, &value_before))
    same = key == key_before && value == value_before;
  return PyBool_FromLong(same);
}

#define FASTINIT_TEXT(x) FASTINIT_TEXT_(x)
#define FASTINIT_TEXT_(x) #x
#if FASTINIT_CUDA
#define FASTINIT_CUDA_TEXT FASTINIT_TEXT(CUDART_VERSION)
#else
#define FASTINIT_CUDA_TEXT "no"
#endif

// fastinit/_compiled.py finds this in the file and loads the file only where it fits: a binary of
// another torch cannot say so itself, as it crashes or misses symbols first.
__attribute__((used)) const char kBuiltFor[] =
    "fastinit-built-for torch=" TORCH_VERSION " cuda=" FASTINIT_CUDA_TEXT " python=" PY_VERSION ";";

// The rows of core/distributions.h.
py::list distributions() {
  py::list rows;
  for (const DistributionRow& row : kDistributions) {
    py::dict arguments;
    for (int k = 0; k < row.argument_count; ++k)
      arguments[row.arguments[k].name] = row.arguments[k].value;
    py::dict entry;
    entry["name"] = row.name;
    entry["code"] = static_cast<int>(row.distribution);
    entry["arguments"] = arguments;
    entry["random"] = row.tensors != Tensors::Any;
    entry["complex"] = row.tensors == Tensors::Any || row.tensors == Tensors::Complex;
    rows.append(entry);
  }
  return rows;
}

py::dict build_info() {
  py::dict info;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["torch"] = TORCH_VERSION;
  info["python"] = PY_VERSION;
#if FASTINIT_CUDA
  info["cuda"] = std::to_string(CUDART_VERSION / 1000) + "." +
                 std::to_string(CUDART_VERSION % 1000 / 10) + " for " FASTINIT_CUDA_TARGETS;
#else
  info["cuda"] = "no";
#endif
  return info;
}

template <typename Function>
PyMethodDef method(const char* name, Function function) {
  constexpr bool one = std::is_same_v<Function, PyCFunction>;
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function)),
          one ? METH_O : METH_FASTCALL, nullptr};
}

PyMethodDef methods[] = {method("fold", fold),
                         method("guard_storage", ops::guard_storage),
                         method("handled_dtype", ops::handled_dtype),
                         method("hold_storage", ops::hold_storage),
                         method("holds_same", holds_same),
                         method("layout_of", ops::layout_of),
                         method("ordinary_layout", ops::ordinary_layout),
                         method("sort_held", sort_held),
                         method("storage_address", ops::storage_address),
                         method("tensor_on", ops::tensor_on),
                         {}};

}  // namespace

PYBIND11_MODULE(_C, m) {
  // A capability that is not there fails the import, with the names of those that are.
  cpu::capability();
  m.attr("STREAM_VERSION") = kStreamVersion;
  m.def("philox4x32", philox, py::arg("counter"), py::arg("key"));
  m.def("capability", [] { return std::string(cpu::capability().name); });
  m.def("capabilities", [] {
    py::list names;
    for (const auto& c : cpu::capabilities()) names.append(c.name);
    return names;
  });
  m.def("distributions", distributions);
  m.def("build_info", build_info);
  m.def(
      "advise_huge_pages",
      [](uintptr_t begin, size_t bytes, bool wanted) {
        cpu::advise_huge_pages(reinterpret_cast<void*>(begin), bytes, wanted);
      },
      py::arg("begin"), py::arg("bytes"), py::arg("wanted") = true);
  m.def(
      "touch_page", [](uintptr_t begin) { return cpu::touch_page(reinterpret_cast<void*>(begin)); },
      py::arg("begin"));
  m.def(
      "overlaps_itself",
      [](const std::vector<int64_t>& size, const std::vector<int64_t>& stride) {
        if (size.size() != stride.size()) throw py::value_error("overlaps_itself: lengths differ");
        return overlaps_itself(size.data(), stride.data(), static_cast<int64_t>(size.size()));
      },
      py::arg("size"), py::arg("stride"));
  if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw py::error_already_set();
}
