// A value that is passed on as it came, without being decoded: its cells, the bytes that they lead to, and its payloads' leases.
#pragma once

#include <memory>
#include <span>

#include "values.hpp"

namespace isthmus::python {

/// What Decoder::next_parcel makes: `cells` are one value of `frame`. The uses of its payloads are the parcel's, and end with it.
/// GIL held.
PyObject* new_parcel(State& state, const std::shared_ptr<Memory>& memory, std::span<const wire::Cell> cells,
                     std::span<const std::byte> heap, std::vector<Handle> payloads);
/// Appends the value of a parcel. False when it came over another bus. GIL held.
bool splice(Memory& memory, Outgoing& out, PyObject* parcel);

extern PyType_Spec parcel_spec;

}  // namespace isthmus::python
