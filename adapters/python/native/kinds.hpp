// How a Python type travels.
#pragma once

#include "state.hpp"

namespace isthmus::python {

/// Whether a type has an attribute. GIL held.
bool has(PyTypeObject* type, const char* name);
/// The kind of a type, remembered from the first time on. GIL held.
Kind kind_of(State& state, PyTypeObject* type);

}  // namespace isthmus::python
