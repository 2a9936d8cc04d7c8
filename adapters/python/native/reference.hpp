// The Python object Reference: another peer's object, and the uses of it that this peer has to give back.
#pragma once

#include "memory.hpp"
#include "state.hpp"

namespace isthmus::python {

/// What a received reference to another's object becomes: the proxy that stands for it already, or a new one from
/// Bus.reference_factory. Takes over the one use, also when it fails. GIL held.
PyObject* receive_reference(State& state, const std::shared_ptr<Memory>& memory, const wire::Cell& cell);
/// The same as a Reference that no proxy stands for. GIL held.
PyObject* new_reference(State& state, const std::shared_ptr<Memory>& memory, const wire::Cell& cell);

/// The Reference in a proxy, or the object itself when it is one; empty when it is no proxy. GIL held.
Ref reference_in(State& state, PyObject* object);
/// The cell a Reference came as. False when it was released. Any thread.
bool cell_of(PyObject* reference, wire::Cell& cell);
/// Whether it came over this bus. Any thread.
bool is_from(PyObject* reference, const Memory& memory);

extern PyType_Spec reference_spec;

}  // namespace isthmus::python
