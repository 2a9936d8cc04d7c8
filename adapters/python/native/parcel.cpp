#include "parcel.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "errors.hpp"

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

namespace {

// Written when it is made.
struct Parcel {
    std::shared_ptr<Memory> memory;
    std::vector<wire::Cell> cells;  // their offsets count from the first byte of `heap`, their indices in `payloads`
    std::vector<std::byte> heap;
    std::vector<Handle> payloads;
};

bool is_elements(const wire::Cell& cell) { return cell.tag == wire::Tag::array || cell.tag == wire::Tag::bytes; }

/// How many bytes of the heap the value needs that begins with this cell.
std::uint64_t bytes_of(std::span<const wire::Cell> cells) {
    if (!is_elements(cells[0])) return cells[0].count;
    const wire::ArrayShape shape = wire::array_shape(cells);
    bool overflow = false;
    return wire::array_bytes(shape.item_bytes, shape.extents, overflow);
}

/// Calls `in_heap` and `in_payloads` for each cell of a well-formed value that leads there.
template <class InHeap, class InPayloads>
void each_place(std::span<wire::Cell> cells, InHeap&& in_heap, InPayloads&& in_payloads) {
    for (wire::Cell& cell : cells) {
        if (cell.tag == wire::Tag::text || cell.tag == wire::Tag::bigint) {
            in_heap(cell);
        } else if (is_elements(cell)) {
            (cell.flags & wire::cell_leased) != 0 ? in_payloads(cell) : in_heap(cell);
        }
    }
}

}  // namespace

PyObject* new_parcel(State& state, const std::shared_ptr<Memory>& memory, std::span<const wire::Cell> cells,
                     std::span<const std::byte> heap, std::vector<Handle> payloads) {
    PyObject* self = state.parcel->tp_alloc(state.parcel, 0);
    if (self == nullptr) {
        for (const Handle& payload : payloads) memory->release(payload);
        return nullptr;
    }
    new (&unbox<Parcel>(self)) Parcel{memory, {cells.begin(), cells.end()}, {}, std::move(payloads)};
    Parcel& parcel = unbox<Parcel>(self);
    std::uint64_t first = heap.size(), end = 0;
    const auto widen = [&](const wire::Cell& cell) {
        first = std::min(first, cell.bits & ~std::uint64_t{7});
        end = std::max(end, cell.bits + bytes_of({&cell, parcel.cells.data() + parcel.cells.size()}));
    };
    each_place(parcel.cells, widen, [](const wire::Cell&) {});
    each_place(parcel.cells, [&](wire::Cell& cell) { cell.bits -= first; }, [](const wire::Cell&) {});
    if (first < end)
        parcel.heap.assign(heap.begin() + static_cast<std::ptrdiff_t>(first),
                           heap.begin() + static_cast<std::ptrdiff_t>(end));
    return self;
}

bool splice(Memory& memory, Outgoing& out, PyObject* object) {
    const Parcel& parcel = unbox<Parcel>(object);
    if (parcel.memory.get() != &memory) return false;
    const auto [room, heap] = out.values.room(parcel.heap.size());
    if (!parcel.heap.empty()) std::memcpy(room, parcel.heap.data(), parcel.heap.size());
    const std::uint64_t payloads = out.payloads.size();
    for (const Handle& payload : parcel.payloads) {
        (void)memory.retain(payload);
        out.payloads.push_back(payload);
    }
    for (wire::Cell cell : parcel.cells) {
        each_place(
            {&cell, 1}, [&, at = heap](wire::Cell& in_heap) { in_heap.bits += at; },
            [&](wire::Cell& leased) { leased.bits += payloads; });
        out.values.put(cell);
    }
    return true;
}

// --- reading one -----------------------------------------------------------------------------------------------

template <class Look>
std::size_t Decoder::walk(std::size_t at, Look&& look) const {
    std::vector<std::uint64_t> open{1};  // how much is to come, at each level
    while (!open.empty()) {
        if (open.back() == 0) {
            open.pop_back();
            continue;
        }
        --open.back();
        const wire::Cell& cell = frame_.cells[at++];
        switch (cell.tag) {
            case wire::Tag::list:
            case wire::Tag::tuple:
            case wire::Tag::set: open.push_back(cell.count); break;
            case wire::Tag::object:
            case wire::Tag::map: open.push_back(std::uint64_t{cell.count} * 2); break;
            case wire::Tag::slice: open.push_back(3); break;
            case wire::Tag::table: open.push_back(std::uint64_t{cell.count} + 1); break;
            case wire::Tag::array:
            case wire::Tag::bytes: at += wire::array_shape(frame_.cells.subspan(at - 1)).cells; break;
            default: break;
        }
        if (!look(cell, open.size())) return 0;
    }
    return at;
}

PyObject* Decoder::next_parcel() {
    const std::size_t begin = at_;
    const std::size_t end = walk(begin, [](const wire::Cell& cell, std::size_t depth) {
        if (cell.tag == wire::Tag::reference || cell.tag == wire::Tag::pickle) {
            PyErr_SetString(PyExc_TypeError,
                            "the message holds a function or an object that stays with its owner: queues and topics "
                            "carry values alone, as nobody knows who will be there when they arrive");
        } else if (depth > wire::max_depth) {  // it is to travel within a tuple
            PyErr_Format(PyExc_ValueError,
                         "the message is nested more than %d deep: queues and topics carry it in a container of theirs",
                         static_cast<int>(wire::max_depth) - 1);
        } else {
            return true;
        }
        return false;
    });
    if (end == 0) return nullptr;  // all of it is given back, as what was not read
    at_ = end;
    std::vector<wire::Cell> cells(frame_.cells.begin() + static_cast<std::ptrdiff_t>(begin),
                                  frame_.cells.begin() + static_cast<std::ptrdiff_t>(at_));
    std::vector<Handle> payloads;
    each_place(
        cells, [](const wire::Cell&) {},
        [&](wire::Cell& cell) {
            payloads.push_back(take(cell.bits));
            cell.bits = payloads.size() - 1;
        });
    return new_parcel(state_, memory_, cells, frame_.heap, std::move(payloads));
}

PyObject* Decoder::next_delivery() {
    const wire::Cell& cell = peek();
    if (cell.tag != wire::Tag::tuple || cell.count == 0) return next();
    const std::size_t end = walk(at_, [](const wire::Cell&, std::size_t) { return true; });
    const Ref members(PyTuple_New(static_cast<Py_ssize_t>(cell.count)));
    if (!members) return nullptr;
    enter();
    for (std::uint32_t i = 0; i < cell.count; ++i) {
        Ref member(next());
        if (!member && i + 1 < cell.count) return nullptr;
        if (!member) {
            member = take_exception();
            at_ = end;
        }
        PyTuple_SET_ITEM(members.get(), static_cast<Py_ssize_t>(i), member.give());
    }
    return Py_NewRef(members.get());
}

// --- type ------------------------------------------------------------------------------------------------------

namespace {

void dealloc(PyObject* self) {
    Parcel& parcel = unbox<Parcel>(self);
    for (const Handle& payload : parcel.payloads) parcel.memory->release(payload);
    parcel.~Parcel();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("A value on its way: it can be sent on, and nothing else.")},
    {Py_tp_dealloc, slot(dealloc)},
    {0, nullptr},
};

}  // namespace

PyType_Spec parcel_spec = {"isthmus._isthmus.Parcel", sizeof(Boxed<Parcel>), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace isthmus::python
