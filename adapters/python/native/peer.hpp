// The Python objects Broker and Bus.
#pragma once

#include "state.hpp"

namespace isthmus::python {

extern PyType_Spec broker_spec;
extern PyType_Spec bus_spec;

/// allocate(nbytes, format, shape): a Lease over fresh memory of the newest bus. GIL held.
PyObject* allocate(PyObject* module, PyObject* arguments);

}  // namespace isthmus::python
