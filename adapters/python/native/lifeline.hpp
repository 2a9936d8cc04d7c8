// A descriptor that hangs up when the parent is gone.
#pragma once

#include <string>

#include "python.hpp"

namespace isthmus::python {

/// watch_parent(fd): from now on, a thread that never takes the GIL asks this process to stop (SIGTERM) once `fd` hangs up, and
/// ends it 300 ms later in any case, without a socket of its own staying behind. GIL held.
PyObject* watch_parent(PyObject* module, PyObject* fd);

/// The socket of a bus that this process serves, or serves no more. Any thread.
void owns_socket(const std::string& path);
void disowns_socket(const std::string& path);

}  // namespace isthmus::python
