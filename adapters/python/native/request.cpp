#include "request.hpp"

#include <time.h>

#include <algorithm>
#include <cerrno>

#include "calling.hpp"
#include "errors.hpp"
#include "reference.hpp"

namespace isthmus::python {

namespace {

/// Whether arguments may be pickles. A call by name whose callee has not asked for them fails before it is sent.
bool pickles_for(const Pending& call) {
    return call.name.empty() ? call.memory->pickles_for(call.slot) : call.memory->pickles();
}

bool encode_arguments(State& state, Pending& call, PyObject* positional, PyObject* named) {
    Memory& memory = *call.memory;
    Outgoing& out = call.out;
    const bool lends = !is_system(call.name);
    const bool pickles = lends && pickles_for(call);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(positional); ++i) {
        const Root root{.name = "args", .index = i, .lends = lends, .pickles = pickles};
        if (!encode(state, memory, out, PyTuple_GET_ITEM(positional, i), root, false)) return false;
    }
    if (PyDict_GET_SIZE(named) == 0) return true;
    out.values.put({wire::Tag::object, wire::DType::none, wire::cell_kwargs,
                    static_cast<std::uint32_t>(PyDict_GET_SIZE(named)), 0});
    Py_ssize_t at = 0;
    PyObject *key, *value;
    while (PyDict_Next(named, &at, &key, &value)) {
        const Root root{.name = "kwargs", .key = key, .depth = 1, .pickles = pickles};
        if (!encode(state, memory, out, key, root, false) || !encode(state, memory, out, value, root, false))
            return false;
    }
    return true;
}

/// Where the owner of a Reference is, and the cell it came as.
bool address(State& state, Pending& call, PyObject* reference) {
    wire::Cell cell;
    if (!is_from(reference, *call.memory)) {
        PyErr_SetString(PyExc_ValueError, "the object came over another bus: use it there");
        return false;
    }
    if (!cell_of(reference, cell)) {
        PyErr_SetString(state.error, "the remote object was released: it can't be used any more");
        return false;
    }
    call.slot = wire::owner_of(cell);
    call.generation = cell.count;
    return encode_reference(state, *call.memory, call.out, reference);
}

/// ("operate", subject, steps), whose result is lent if it is a table; ("fetch", subject, steps), whose result is not.
bool encode_operation(State& state, Pending& call, PyObject* target) {
    const char* verb;
    PyObject *subject, *steps;
    if (!PyArg_ParseTuple(target, "sOO!;an operation is ('operate', subject, steps)", &verb, &subject, &PyList_Type,
                          &steps)) {
        return false;
    }
    call.target = wire::operation;
    if (std::string_view(verb) != "fetch") call.flags |= wire::frame_lends;
    const bool is_reference = Py_IS_TYPE(subject, state.reference);
    if (is_reference ? !address(state, call, subject)
                     : !encode(state, *call.memory, call.out, subject, {"subject"}, false)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(steps); ++i) {
        const Ref step = Ref::to(PyList_GET_ITEM(steps, i));
        if (!encode(state, *call.memory, call.out, step.get(), {"steps", i}, false)) return false;
    }
    return true;
}

/// True, or a key as a text.
bool read_sticky(Pending& call, PyObject* sticky) {
    if (sticky == Py_True) {
        call.sticky = Bus::by_caller;
        return true;
    }
    if (!PyUnicode_Check(sticky)) {
        PyErr_Format(PyExc_TypeError, "sticky is True or a text that is the key, not %R", sticky);
        return false;
    }
    Py_ssize_t bytes;
    const char* key = PyUnicode_AsUTF8AndSize(sticky, &bytes);
    if (key != nullptr) call.sticky = Bus::sticky_key({key, static_cast<std::size_t>(bytes)});
    return key != nullptr;
}

bool encode_target(State& state, Pending& call, PyObject* target) {
    if (PyTuple_Check(target) && PyTuple_GET_SIZE(target) == 2) {
        if (!read_sticky(call, PyTuple_GET_ITEM(target, 1))) return false;
        target = PyTuple_GET_ITEM(target, 0);
    }
    if (PyUnicode_Check(target)) {
        Py_ssize_t bytes;
        const char* name = PyUnicode_AsUTF8AndSize(target, &bytes);
        if (name != nullptr) call.name.assign(name, static_cast<std::size_t>(bytes));
        if (name != nullptr && bytes == 0) PyErr_SetString(PyExc_ValueError, "the name of an export can't be empty");
        return bytes != 0 && name != nullptr;
    }
    if (Py_IS_TYPE(target, state.reference)) {
        call.target = wire::on_object;
        call.flags |= wire::frame_lends;
        return address(state, call, target);
    }
    if (PyTuple_Check(target)) return encode_operation(state, call, target);
    PyErr_SetString(PyExc_TypeError,
                    "what is called must be a name, a name and what it is sticky by, a Reference, or an operation");
    return false;
}

/// A call within another is part of it, and has no more time.
void carry_on(Pending& call, const Calling& calling) {
    call.activity = calling.activity;
    if (calling.deadline != 0 && (call.deadline == 0 || calling.deadline < call.deadline)) {
        call.deadline = calling.deadline;
        call.seconds = -1;
    }
}

}  // namespace

std::shared_ptr<Pending> prepare(Peer& peer, PyObject* target, PyObject* positional, PyObject* named, PyObject* timeout,
                                 int flags) {
    if (!is_ours(peer)) return nullptr;
    State& state = *peer.state;
    double seconds = -1;
    if (timeout != Py_None) {
        seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1 && PyErr_Occurred()) return nullptr;
        if (!(seconds >= 0)) {
            PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds from 0 on, or None");
            return nullptr;
        }
    }
    std::shared_ptr<Memory> memory = peer.open_memory();
    if (!memory) {
        raise(state, Status::closed, "the bus '" + peer.name + "' is closed: connect to it again");
        return nullptr;
    }
    auto call = std::make_shared<Pending>(std::move(memory));
    constexpr double longest = 1e9;  // thirty years; more than that overflows nanoseconds
    if (seconds >= 0) call->deadline = now_ns() + static_cast<std::uint64_t>(std::min(seconds, longest) * 1e9);
    call->seconds = seconds;
    call->flags = static_cast<std::uint16_t>(flags);
    if (encode_target(state, *call, target) && encode_arguments(state, *call, positional, named)) {
        if ((flags & detached) == 0 && !outlives_its_call(call->name))
            carry_on(*call, calling_here(state, *call->memory));
        return call;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    call->out.rewind({}, *call->memory);
    PyErr_Restore(type, error, traceback);
    return nullptr;
}

bool begin(Peer& peer, const std::shared_ptr<Pending>& call) {
    Status status = Status::ok;
    if (call->out.has_copies()) {
        {
            const WithoutGil without;
            status = call->out.settle(*call->memory);
        }
        call->out.drop_copies();
    }
    if (status == Status::ok && !peer.calls.push(call)) status = Status::closed;
    if (status != Status::ok) {
        const std::string what = call->memory->shortage(status, call->out.refused_bytes);
        call->out.end(*call->memory, false);
        raise(*peer.state, status, what);
        return false;
    }
    if (Memory::of_this_thread() != call->memory) peer.wake();
    return true;
}

namespace {

Awaited await_elsewhere(Pending& call, std::uint64_t deadline) {
    for (;;) {
        const std::uint64_t slice = now_ns() + 1'000'000'000;
        const std::uint64_t until = deadline != 0 ? std::min(deadline, slice) : slice;
        const timespec time{static_cast<time_t>(until / 1'000'000'000), static_cast<long>(until % 1'000'000'000)};
        int failure = 0;
        {
            const WithoutGil without;
            if (::sem_clockwait(&call.done, CLOCK_MONOTONIC, &time) != 0) failure = errno;
        }
        if (failure == 0) return Awaited::settled;
        if (failure == EINTR && PyErr_CheckSignals() < 0) return Awaited::interrupted;
        if (failure == ETIMEDOUT && until == deadline) return Awaited::timed_out;
    }
}

}  // namespace

Awaited await(Pending& call, std::uint64_t until) {
    Dispatcher* here = Dispatcher::of_this_thread();
    if (here == nullptr || &here->memory() != call.memory.get()) return await_elsewhere(call, until);
    return here->await(call, until);
}

// --- what came of it -----------------------------------------------------------------------------------------------

PyObject* result_of(State& state, Pending& call) {
    const std::string what = call.name.empty() ? "the call of a remote object" : "the call of '" + call.name + "'";
    if (!call.refused.empty()) {
        raise_encode_error(state, call.refused,
                           "is sent as a pickle, and " + what +
                               " goes to a peer that did not ask for pickles: serve it with pickle=True (--pickle), or "
                               "connect without");
        return nullptr;
    }
    switch (call.outcome) {
        case Status::ok: break;
        case Status::lost:
        case Status::corrupt:
            raise(state, call.outcome,
                  what + (!call.fate.empty()  ? " was lost: " + call.fate
                          : call.name.empty() ? " was not sent: its owner is gone"
                                              : " was not sent: nobody serves it at the moment"));
            return nullptr;
        case Status::closed: raise(state, call.outcome, what + " was lost: the bus was closed"); return nullptr;
        case Status::timed_out:
            raise(state, call.outcome,
                  what + (call.seconds < 0 ? " took longer than the call that it is part of may take"
                                           : " took longer than " + std::to_string(call.seconds) + " s"));
            return nullptr;
        default: raise(state, call.outcome); return nullptr;
    }
    wire::Draft frame;
    if (wire::read(call.frame, frame) != Status::ok) {
        raise(state, Status::corrupt);
        return nullptr;
    }
    if (frame.kind == wire::Kind::error) {
        raise_remote(state, call.memory, frame, call.name);
        return nullptr;
    }
    Decoder decoder(state, call.memory, frame);
    return decoder.at_end() ? Py_NewRef(Py_None) : decoder.next();
}

PyObject* items_of(State& state, Pending& call, const Pending::Frame& bytes) {
    wire::Draft frame;
    if (wire::read(bytes, frame) != Status::ok) {
        raise(state, Status::corrupt);
        return nullptr;
    }
    Decoder decoder(state, call.memory, frame);
    const bool are_deliveries = outlives_its_call(call.name);  // one that can't be read spares the others
    Ref items(PyList_New(0));
    while (items && !decoder.at_end()) {
        const Ref item(are_deliveries ? decoder.next_delivery() : decoder.next());
        if (!item || PyList_Append(items.get(), item.get()) < 0) return nullptr;
    }
    return items.give();
}

void drop_frame(State& state, Pending& call, const Pending::Frame& bytes) {
    wire::Draft frame;
    if (!bytes.empty() && wire::read(bytes, frame) == Status::ok) const Decoder dropped(state, call.memory, frame);
}

}  // namespace isthmus::python
