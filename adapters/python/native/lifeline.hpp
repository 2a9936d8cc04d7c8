// A descriptor that hangs up when the parent is gone.
#pragma once

#include "python.hpp"

namespace isthmus::python {

/// watch_parent(fd, path): from now on, a thread that never takes the GIL asks this process to stop (SIGTERM) once `fd` hangs up,
/// and ends it 300 ms later in any case, without the socket `path` staying behind. GIL held.
PyObject* watch_parent(PyObject* module, PyObject* arguments);

}  // namespace isthmus::python
