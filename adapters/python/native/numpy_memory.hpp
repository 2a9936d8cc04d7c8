// numpy allocates in the bus (NEP 49): arrays that are large enough lie in its arena from the start, so that a result is
// handed over without a copy.
#pragma once

#include "memory.hpp"
#include "state.hpp"

namespace isthmus::python {

/// From how many bytes on. Below, a copy costs less than a block's accounts.
inline constexpr std::size_t numpy_bytes_from = 32 << 10;

/// Lets numpy allocate in the bus, or as before (`on` false), in the context that is current. Returns the handler that was
/// in use, to be handed to restore_numpy_memory; null with an exception set. numpy must be importable. GIL held.
PyObject* use_numpy_memory(bool on);
/// use_numpy_memory(on) and restore_numpy_memory(handler), as functions of the module. GIL held.
PyObject* use_numpy_memory(PyObject* module, PyObject* on);
PyObject* restore_numpy_memory(PyObject* module, PyObject* handler);

/// Where arrays are allocated by threads that serve no bus of their own: the newest of these. Any thread.
void offer_numpy_memory(const std::shared_ptr<Memory>& memory);

}  // namespace isthmus::python
