// The methods Bus.start, cancel and credit: calls whose results are told to a sink.
#include "errors.hpp"
#include "request.hpp"

namespace isthmus::python {

PyObject* start(PyObject* self, PyObject* arguments) {
    Peer& peer = peer_of(self);
    PyObject *target, *positional, *named, *timeout, *sink, *tag;
    int flags;
    unsigned int credit;
    if (!PyArg_ParseTuple(arguments, "OO!O!OiIOO", &target, &PyTuple_Type, &positional, &PyDict_Type, &named, &timeout,
                          &flags, &credit, &sink, &tag)) {
        return nullptr;
    }
    return guarded(*peer.state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        const int given = flags & (wire::frame_streams | wire::frame_keeps | detached);
        const std::shared_ptr<Pending> call = prepare(peer, target, positional, named, timeout, given);
        if (!call) return nullptr;
        call->credit = credit;
        call->sink = Py_NewRef(sink);
        call->tag = Py_NewRef(tag);
        return begin(peer, call) ? PyLong_FromUnsignedLongLong(call->id) : nullptr;
    });
}

PyObject* cancel(PyObject* self, PyObject* handle) {
    Peer& peer = peer_of(self);
    const std::uint64_t id = PyLong_AsUnsignedLongLong(handle);
    if (PyErr_Occurred()) return nullptr;
    if (peer.forks == fork_count()) {
        (void)peer.calls.give_up(id);
        peer.wake();
    }
    Py_RETURN_NONE;
}

PyObject* credit(PyObject* self, PyObject* arguments) {
    Peer& peer = peer_of(self);
    unsigned long long id;
    unsigned int count;
    if (!PyArg_ParseTuple(arguments, "KI", &id, &count)) return nullptr;
    if (peer.forks == fork_count()) {
        peer.calls.credit(id, count);
        peer.wake();
    }
    Py_RETURN_NONE;
}

}  // namespace isthmus::python
