// What the objects that make a module hold, for snapshots of them.
#pragma once

#include <Python.h>

namespace fastinit::ops {

// A list of a module and all below it, each object once, in no order in particular.
PyObject* modules_of(PyObject*, PyObject* root);

// walk_held(waiting, seen, containers, copies, empty, plain, atoms, module): takes what waits, last
// first, until nothing does, and gives what is neither a container of a class in `plain`, nor an
// instance of `module`, nor of a class in `atoms`, which hold nothing. Containers, the attributes of
// modules among them, and copies of them are appended; so are containers in them that are empty.
// What they hold waits next. `seen` has the id of everything that was met.
PyObject* walk_held(PyObject*, PyObject* const* arguments, Py_ssize_t count);

// holds_same(now, before): whether a list, dict or OrderedDict, of no subclass of these, holds the objects of another in
// their order; of everything else it is not known, and False.
PyObject* holds_same(PyObject*, PyObject* const* arguments, Py_ssize_t count);

// all_hold_same(containers, before, instead): the same for a list of them. Those whose ids are in the dict `instead` are
// compared with what it has, not with what the list of before has.
PyObject* all_hold_same(PyObject*, PyObject* const* arguments, Py_ssize_t count);

// The dict of an object's attributes; None if it has none. Its class, which may call something else
// `__dict__` or refuse, is not asked; nor are classes theirs.
PyObject* attributes_of(PyObject*, PyObject* object);

// What belongs to the object that a tensor is: (itself, a tensor on the same memory, whether it is a
// leaf, its gradient if so, whether it requires one, its attributes, its hooks, those after the
// accumulation of gradients, its version, -1 if it has none). Dicts are copies; None for no hooks. No
// class's own code is asked.
PyObject* tensor_state(PyObject*, PyObject* tensor);

// set_version(tensor, version): has autograd count its writes from there on; -1 changes nothing.
PyObject* set_version(PyObject*, PyObject* const* arguments, Py_ssize_t count);

}  // namespace fastinit::ops
