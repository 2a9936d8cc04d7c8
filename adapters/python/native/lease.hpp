// Memory that Python sees through the buffer protocol: a leased block of a bus, or a small copy of its own.
#pragma once

#include <memory>
#include <span>

#include "memory.hpp"
#include "state.hpp"

namespace isthmus::python {

/// Elements in a shape; what a Lease shows to those who ask for its buffer.
struct Layout {
    wire::DType dtype = wire::DType::uint8;
    std::span<const Py_ssize_t> shape;
    bool fortran = false;
};

/// A Lease that takes over one use of the block, also when it fails. GIL held.
PyObject* new_lease(State& state, std::shared_ptr<Memory> memory, const Handle& handle, const Layout& layout,
                    bool writable);
/// A Lease over a copy of these bytes. GIL held.
PyObject* new_copy(State& state, std::span<const std::byte> bytes, const Layout& layout, bool writable);

/// The format string of PEP 3118.
const char* format_of(wire::DType dtype);

extern PyType_Spec lease_spec;

}  // namespace isthmus::python
