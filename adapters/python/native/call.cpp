// The method Bus.call: one blocking call from any thread.
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "errors.hpp"
#include "peer.hpp"

namespace isthmus::python {

namespace {

/// GIL held. False with an exception set.
bool encode_call(Peer& peer, Memory& memory, Outgoing& out, PyObject* positional, PyObject* named) {
    State& state = *peer.state;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(positional); ++i) {
        if (!encode(state, memory, out, PyTuple_GET_ITEM(positional, i), {"args", i}, false)) return false;
    }
    if (PyDict_GET_SIZE(named) == 0) return true;
    out.values.put({wire::Tag::object, wire::DType::none, wire::cell_kwargs,
                    static_cast<std::uint32_t>(PyDict_GET_SIZE(named)), 0});
    Py_ssize_t at = 0;
    PyObject *key, *value;
    while (PyDict_Next(named, &at, &key, &value)) {
        if (!encode(state, memory, out, key, {"kwargs", -1, key, 1}, false) ||
            !encode(state, memory, out, value, {"kwargs", -1, key, 1}, false)) {
            return false;
        }
    }
    return true;
}

enum class Awaited { settled, timed_out, interrupted };

/// GIL held on entry and exit, given back while waiting. A signal ends the wait when its handler raises.
Awaited await(Pending& call) {
    for (;;) {
        const std::uint64_t slice = now_ns() + 1'000'000'000;
        const std::uint64_t until = call.deadline != 0 ? std::min(call.deadline, slice) : slice;
        const timespec time{static_cast<time_t>(until / 1'000'000'000), static_cast<long>(until % 1'000'000'000)};
        int failure = 0;
        {
            const WithoutGil without;
            if (::sem_clockwait(&call.done, CLOCK_MONOTONIC, &time) != 0) failure = errno;
        }
        if (failure == 0) return Awaited::settled;
        if (failure == EINTR && PyErr_CheckSignals() < 0) return Awaited::interrupted;
        if (failure == ETIMEDOUT && until == call.deadline) return Awaited::timed_out;
    }
}

/// The completion of a settled call. GIL held.
PyObject* result_of(Peer& peer, const std::shared_ptr<Memory>& memory, Pending& call) {
    State& state = *peer.state;
    if (call.outcome != Status::ok) {
        const char* why =
            call.outcome == Status::lost ? "was lost: the host has gone, or there is none on the bus" : nullptr;
        if (call.outcome == Status::closed) why = "was lost: the bus was closed";
        if (why == nullptr) {
            raise(state, call.outcome);
        } else {
            raise(state, call.outcome, "the call of '" + call.name + "' " + why);
        }
        return nullptr;
    }
    wire::Draft frame;
    if (wire::read(call.frame, frame) != Status::ok) {
        raise(state, Status::corrupt);
        return nullptr;
    }
    if (frame.kind == wire::Kind::error) {
        raise_remote(state, memory, frame, call.name);
        return nullptr;
    }
    Decoder decoder(state, memory, frame);
    return decoder.at_end() ? Py_NewRef(Py_None) : decoder.next();
}

}  // namespace

PyObject* call(PyObject* self, PyObject* arguments) {
    Peer& peer = peer_of(self);
    const char* name;
    Py_ssize_t name_bytes;
    PyObject *positional, *named, *timeout;
    if (!PyArg_ParseTuple(arguments, "s#O!O!O", &name, &name_bytes, &PyTuple_Type, &positional, &PyDict_Type, &named,
                          &timeout) ||
        !is_ours(peer)) {
        return nullptr;
    }
    double seconds = -1;
    if (timeout != Py_None) {
        seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1 && PyErr_Occurred()) return nullptr;
        if (!(seconds >= 0)) {
            PyErr_SetString(PyExc_ValueError, "timeout must be a number of seconds from 0 on, or None");
            return nullptr;
        }
    }
    State& state = *peer.state;
    return guarded(state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        const std::shared_ptr<Memory> memory = peer.open_memory();
        if (!memory) {
            raise(state, Status::closed, "the bus '" + peer.name + "' is closed: connect to it again");
            return nullptr;
        }
        const auto call = std::make_shared<Pending>();
        call->name.assign(name, static_cast<std::size_t>(name_bytes));
        constexpr double longest = 1e9;  // thirty years; more than that overflows nanoseconds
        if (seconds >= 0) call->deadline = now_ns() + static_cast<std::uint64_t>(std::min(seconds, longest) * 1e9);
        Outgoing& out = call->out;
        if (!encode_call(peer, *memory, out, positional, named)) {
            out.rewind({}, *memory);
            return nullptr;
        }
        Status status;
        {
            const WithoutGil without;
            status = out.settle(*memory);
            if (status == Status::ok && !peer.calls.push(call)) status = Status::closed;
            if (status == Status::ok) {
                peer.wake();
            } else {
                out.release_payloads(*memory);
            }
        }
        const Awaited awaited = status == Status::ok ? await(*call) : Awaited::settled;
        out.drop_copies();
        if (status != Status::ok) {
            raise(state, status);
            return nullptr;
        }
        if (awaited != Awaited::settled) {
            PyObject *type, *error, *traceback;
            PyErr_Fetch(&type, &error, &traceback);
            if (peer.calls.abandon(*call, *memory)) {
                peer.wake();
                PyErr_Restore(type, error, traceback);
                if (awaited == Awaited::timed_out) {
                    raise(state, Status::timed_out,
                          "the call of '" + call->name + "' took longer than " + std::to_string(seconds) + " s");
                }
                return nullptr;
            }
            // It was settled in the meantime.
            Ref result(result_of(peer, memory, *call));
            if (awaited == Awaited::timed_out) return result.give();
            PyErr_Clear();
            PyErr_Restore(type, error, traceback);
            return nullptr;
        }
        return result_of(peer, memory, *call);
    });
}

}  // namespace isthmus::python
