// How a Python type travels.
#pragma once

#include "state.hpp"

namespace isthmus::python {

/// The kind of a type, remembered from the first time on. GIL held.
Kind kind_of(State& state, PyTypeObject* type);

}  // namespace isthmus::python
