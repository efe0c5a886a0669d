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
#include "cpu/reserve.h"
#include "host/self_overlap.h"
#include "torch/handled.h"
#include "torch/held.h"
#include "torch/storage_guard.h"

namespace py = pybind11;
using namespace fastinit;

namespace {

py::tuple philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const Words4 out = philox4x32({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return py::make_tuple(out.w[0], out.w[1], out.w[2], out.w[3]);
}

// What a word is folded in as; false, with an error set, if this is no purpose.
bool purpose_of(PyObject* name, Purpose& purpose) {
  constexpr struct {
    const char* name;
    Purpose purpose;
  } kPurposes[] = {{"int", Purpose::FoldInt}, {"str", Purpose::FoldStr}, {"split", Purpose::Split}};
  for (const auto& known : kPurposes)
    if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, known.name) == 0) {
      purpose = known.purpose;
      return true;
    }
  PyErr_Format(PyExc_ValueError, "fold: purpose must be 'int', 'str' or 'split', not %R", name);
  return false;
}

// fold(key, data, purpose, ...): one or more pairs of a word and a purpose, one after the other.
// Models ask it for each weight, so it is a method as CPython has them.
PyObject* fold(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  if (count < 3 || count % 2 == 0)
    return PyErr_Format(PyExc_TypeError, "fold: expects a key, and pairs of a word and a purpose");
  auto key = PyLong_AsUnsignedLongLong(arguments[0]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  for (Py_ssize_t k = 1; k < count; k += 2) {
    const auto data = PyLong_AsUnsignedLongLong(arguments[k]);
    Purpose purpose;
    if (PyErr_Occurred() != nullptr || !purpose_of(arguments[k + 1], purpose)) return nullptr;
    key = derive(key, data, purpose);
  }
  return PyLong_FromUnsignedLongLong(key);
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

PyMethodDef methods[] = {method("all_hold_same", ops::all_hold_same),
                         method("attributes_of", ops::attributes_of),
                         method("fold", fold),
                         method("guard_storage", ops::guard_storage),
                         method("handled_dtype", ops::handled_dtype),
                         method("hold_storage", ops::hold_storage),
                         method("holds_same", ops::holds_same),
                         method("layout_of", ops::layout_of),
                         method("modules_of", ops::modules_of),
                         method("ordinary_layout", ops::ordinary_layout),
                         method("reserve", ops::reserve),
                         method("set_version", ops::set_version),
                         method("storage_address", ops::storage_address),
                         method("storage_fault", ops::storage_fault),
                         method("tensor_on", ops::tensor_on),
                         method("tensor_state", ops::tensor_state),
                         method("unwatch_storage", ops::unwatch_storage),
                         method("walk_held", ops::walk_held),
                         method("watch_storage", ops::watch_storage),
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
  py::class_<cpu::AddressSpace>(m, "AddressSpace").def(py::init<>());
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
