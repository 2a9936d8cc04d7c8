// The Python object Stream: the items of a streaming call, read by a thread that waits for them.
#include <algorithm>
#include <mutex>
#include <new>

#include "errors.hpp"
#include "request.hpp"

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

namespace {

struct Reader {
    PyObject* bus;  // owned
    std::shared_ptr<Pending> call;
    std::mutex mutex;                    // guards what follows, for moments: one thread reads, any may close
    std::vector<Pending::Frame> frames;  // came, and not read yet, the next one last
    bool ended = true;
    std::uint32_t taken = 0;  // items since credit was granted; the reading thread's
};

Reader& reader_of(PyObject* self) { return unbox<Reader>(self); }

bool has_ended(Reader& reader) {
    std::lock_guard lock(reader.mutex);
    return reader.ended;
}

/// The next frame that has come; false when there is none.
bool take_frame(Reader& reader, Pending::Frame& frame) {
    std::lock_guard lock(reader.mutex);
    if (reader.frames.empty()) return false;
    frame = std::move(reader.frames.back());
    reader.frames.pop_back();
    return true;
}

/// False when somebody has done so before. Who has done it reads or drops the completion.
bool finish(Reader& reader) {
    std::lock_guard lock(reader.mutex);
    return !std::exchange(reader.ended, true);
}

/// Ends the stream, and the wait of whoever reads it. GIL held.
void end(Reader& reader) {
    if (!finish(reader)) return;
    Peer& peer = peer_of(reader.bus);
    if (peer.forks != fork_count()) return;
    Pending& call = *reader.call;
    if (peer.calls.give_up(call.id)) {
        ::sem_post(&call.done);
        peer.wake();
    } else {
        drop_frame(*peer.state, call, call.frame);
    }
    for (const auto& frame : peer.calls.take_items(call)) drop_frame(*peer.state, call, frame);
    for (Pending::Frame frame; take_frame(reader, frame);) drop_frame(*peer.state, call, frame);
}

/// The items of a frame, and credit for as many once half of it is used up.
PyObject* read(Reader& reader, const Pending::Frame& frame) {
    Peer& peer = peer_of(reader.bus);
    Pending& call = *reader.call;
    PyObject* items = items_of(*peer.state, call, frame);
    if (items == nullptr) return nullptr;
    reader.taken += static_cast<std::uint32_t>(PyList_GET_SIZE(items));
    if (reader.taken >= (call.credit + 1) / 2) {
        peer.calls.credit(call.id, std::exchange(reader.taken, 0));
        if (Memory::of_this_thread() != call.memory) peer.wake();
    }
    return items;
}

/// Takes over the frames that have come, and says how many; none once the stream has ended.
std::size_t fetch(Reader& reader) {
    Peer& peer = peer_of(reader.bus);
    auto came = peer.calls.take_items(*reader.call);
    std::reverse(came.begin(), came.end());
    {
        std::lock_guard lock(reader.mutex);
        if (!reader.ended) {
            reader.frames = std::move(came);
            return reader.frames.size();
        }
    }
    for (const auto& frame : came) drop_frame(*peer.state, *reader.call, frame);
    return 0;
}

}  // namespace

// --- type functions: all with the GIL held, on any thread --------------------------------------------------------

PyObject* stream(PyObject* self, PyObject* arguments) {
    Peer& peer = peer_of(self);
    State& state = *peer.state;
    PyObject *target, *positional, *named, *timeout;
    unsigned int credit;
    if (!PyArg_ParseTuple(arguments, "OO!O!OI", &target, &PyTuple_Type, &positional, &PyDict_Type, &named, &timeout,
                          &credit)) {
        return nullptr;
    }
    return guarded(state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        std::uint16_t flags = wire::frame_streams;
        const std::shared_ptr<Pending> call = prepare(peer, target, positional, named, timeout, flags);
        if (!call) return nullptr;
        if (Dispatcher::serves_here(*call->memory)) call->flags |= wire::frame_blocks;
        call->credit = credit;
        Ref stream(state.stream->tp_alloc(state.stream, 0));
        if (!stream) return nullptr;
        Reader& reader = *new (&reader_of(stream.get())) Reader{.bus = Py_NewRef(self), .call = call};
        if (!begin(peer, call)) return nullptr;
        reader.ended = false;  // nobody else knows it yet
        return stream.give();
    });
}

namespace {

PyObject* next_batch(PyObject* self, PyObject* timeout) {
    Reader& reader = reader_of(self);
    Peer& peer = peer_of(reader.bus);
    State& state = *peer.state;
    double seconds = -1;
    if (timeout != Py_None) {
        seconds = PyFloat_AsDouble(timeout);
        if (seconds == -1 && PyErr_Occurred()) return nullptr;
    }
    if (!is_ours(peer)) return nullptr;
    return guarded(state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        Pending& call = *reader.call;
        std::uint64_t until = call.deadline;
        if (seconds >= 0) {
            const std::uint64_t own = now_ns() + static_cast<std::uint64_t>(std::min(seconds, 1e9) * 1e9);
            until = until == 0 ? own : std::min(until, own);
        }
        while (!has_ended(reader)) {
            if (Pending::Frame frame; take_frame(reader, frame)) {
                PyObject* items = read(reader, frame);
                if (items == nullptr) end(reader);
                return items;
            }
            const Awaited awaited = await(call, until);
            if (awaited == Awaited::interrupted) return nullptr;
            if (awaited == Awaited::timed_out) {
                if (until == call.deadline) {
                    end(reader);
                    raise(state, Status::timed_out, "the stream's time has run out");
                } else {
                    raise(state, Status::timed_out, "no item has come in time");
                }
                return nullptr;
            }
            // One post for each frame of items, of which several may have been taken at once, and one for the end.
            if (fetch(reader) > 0 || !peer.calls.is_settled(call) || !finish(reader)) continue;
            const Ref result(result_of(state, call));
            if (!result) return nullptr;
        }
        Py_RETURN_NONE;
    });
}

PyObject* close(PyObject* self, PyObject*) {
    end(reader_of(self));
    Py_RETURN_NONE;
}

int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(reader_of(self).bus);
    return 0;
}

void dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    Reader& reader = reader_of(self);
    if (reader.call) end(reader);
    Py_XDECREF(reader.bus);
    reader.~Reader();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

// --- slot tables ---------------------------------------------------------------------------------------------

PyMethodDef methods[] = {
    {"next_batch", next_batch, METH_O,
     "next_batch(timeout)\n--\n\nWaits for items and returns a list of some; None at the end. Raises the stream's "
     "error."},
    {"close", close, METH_NOARGS, "close()\n--\n\nEnds the stream, and the iterator on the other side."},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("The items of a streaming call.")},
    {Py_tp_dealloc, slot(dealloc)},
    {Py_tp_traverse, slot(traverse)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

}  // namespace

PyType_Spec stream_spec = {
    "isthmus._isthmus.Stream", sizeof(Boxed<Reader>), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace isthmus::python
