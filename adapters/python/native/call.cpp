// The methods Bus.call, one blocking call from any thread, and Bus.post.
#include "errors.hpp"
#include "request.hpp"

namespace isthmus::python {

PyObject* call(PyObject* self, PyObject* arguments) {
    Peer& peer = peer_of(self);
    State& state = *peer.state;
    PyObject *target, *positional, *named, *timeout;
    if (!PyArg_ParseTuple(arguments, "OO!O!O", &target, &PyTuple_Type, &positional, &PyDict_Type, &named, &timeout))
        return nullptr;
    return guarded(state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        const std::shared_ptr<Pending> call = prepare(peer, target, positional, named, timeout, 0);
        if (!call) return nullptr;
        if (Dispatcher::serves_here(*call->memory)) call->flags |= wire::frame_blocks;
        if (!begin(peer, call)) return nullptr;
        const Awaited awaited = await(*call, call->deadline);
        if (awaited == Awaited::settled) return result_of(state, *call);
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        const bool given_up = peer.calls.give_up(call->id);
        if (given_up) peer.wake();
        if (given_up && awaited == Awaited::timed_out) call->outcome = Status::timed_out;
        Ref result;
        if (!given_up || awaited == Awaited::timed_out) result = Ref(result_of(state, *call));
        if (awaited == Awaited::timed_out) return result.give();
        PyErr_Clear();
        PyErr_Restore(type, error, traceback);
        return nullptr;
    });
}

PyObject* post(PyObject* self, PyObject* arguments) {
    Peer& peer = peer_of(self);
    PyObject *target, *positional;
    if (!PyArg_ParseTuple(arguments, "OO!", &target, &PyTuple_Type, &positional)) return nullptr;
    const Ref named(PyDict_New());
    if (!named) return nullptr;
    return guarded(*peer.state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        const std::shared_ptr<Pending> call = prepare(peer, target, positional, named.get(), Py_None, 0);
        if (!call) return nullptr;
        call->is_post = true;
        return begin(peer, call) ? Py_NewRef(Py_None) : nullptr;
    });
}

}  // namespace isthmus::python
