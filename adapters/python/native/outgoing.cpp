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
}

Status Outgoing::settle(Memory& memory) {
    for (const Copy& copy : copies) {
        Handle& payload = payloads[copy.payload];
        const auto made = memory.allocate(payload.bytes);
        if (made.status != Status::ok) return made.status;
        payload = {made.handle.offset, payload.bytes, made.handle.block, made.handle.generation};
        copy_elements(*copy.view, copy.swap, memory.at(payload));
        memory.count_copied(payload.bytes);
    }
    return Status::ok;
}

void Outgoing::release_payloads(Memory& memory) {
    for (const Handle& payload : payloads) {
        if (payload.block != no_block) memory.release(payload);
    }
    payloads.clear();
    values.clear();
}

void Outgoing::drop_copies() {
    for (Copy& copy : copies) PyBuffer_Release(copy.view.get());
    copies.clear();
}

}  // namespace isthmus::python
