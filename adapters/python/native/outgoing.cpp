#include "arrays.hpp"
#include "values.hpp"

namespace isthmus::python {

void Outgoing::rewind(const Mark& mark, Memory& memory) {
    values.rewind(mark.values);
    while (copies.size() > mark.copies) {
        PyBuffer_Release(copies.back().view.get());
        copies.pop_back();
    }
    while (payloads.size() > mark.payloads) {
        if (payloads.back().block != no_block) memory.release(payloads.back());
        payloads.pop_back();
    }
    for (; pins.size() > mark.pins; pins.pop_back()) memory.objects().unpin(pins.back(), false);
    for (; held.size() > mark.held; held.pop_back()) Py_DECREF(held.back());
    pickled.resize(mark.pickled);
}

Status Outgoing::settle(Memory& memory) {
    for (const Copy& copy : copies) {
        Handle& payload = payloads[copy.payload];
        const auto made = copy_into_bus(memory, *copy.view, copy.foreign);
        if (made.status != Status::ok) {
            refused_bytes = payload.bytes;
            return made.status;
        }
        payload = made.handle;
    }
    return Status::ok;
}

void Outgoing::fill(wire::Draft& draft) const {
    draft.cells = values.cells();
    draft.heap = values.heap();
    draft.payloads = payloads;
    if (!pins.empty() || !held.empty()) draft.flags |= wire::frame_references;
}

void Outgoing::end(Memory& memory, bool was_sent) {
    for (const Handle& payload : payloads) {
        if (payload.block != no_block) memory.release(payload);
    }
    payloads.clear();
    for (const std::uint64_t id : pins) memory.objects().unpin(id, was_sent);
    pins.clear();
    for (PyObject* reference : held) memory.objects().bury(reference);
    held.clear();
    pickled.clear();
    values.clear();
}

void Outgoing::drop_copies() {
    for (Copy& copy : copies) PyBuffer_Release(copy.view.get());
    copies.clear();
}

}  // namespace isthmus::python
