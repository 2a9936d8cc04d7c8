// The Python object Broker: who creates a bus and serves its socket.
#pragma once

#include "state.hpp"

namespace isthmus::python {

extern PyType_Spec broker_spec;

}  // namespace isthmus::python
