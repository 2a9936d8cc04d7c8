// Elements that lie in the memory of something else, shown through the buffer protocol: of DLPack, or at an address.
#pragma once

#include "state.hpp"

namespace isthmus::python {

/// view(owner, where, offset, item_bytes, shape, strides): a View of elements at an address, or in the bytes of a buffer, which
/// lives as long as the view. `strides` in bytes, or None for C order. GIL held.
PyObject* new_view_of_memory(PyObject* module, PyObject* arguments);
/// tensor(capsule): numpy's code for the elements of DLPack's tensor and a View of them, as a pair. Takes the tensor over.
/// ValueError when its elements are no numbers that travel. GIL held.
PyObject* new_view_of_tensor(PyObject* module, PyObject* capsule);

extern PyType_Spec view_spec;

}  // namespace isthmus::python
