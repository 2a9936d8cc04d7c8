#include "peer.hpp"

#include <algorithm>
#include <cmath>
#include <new>

#include "errors.hpp"
#include "numpy_memory.hpp"
#include "request.hpp"

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

bool is_ours(Peer& peer) {
    if (peer.forks == fork_count()) return true;
    PyErr_Format(peer.state->peer_lost,
                 "the bus '%s' was joined before this process was forked and belongs to the parent: connect again here",
                 peer.name.c_str());
    return false;
}

namespace {

void add_memory(State& state, const std::shared_ptr<Memory>& memory) {
    offer_numpy_memory(memory);
    std::lock_guard lock(state.mutex);
    state.memories.push_back(memory);
}

void remove_memory(State& state, const std::shared_ptr<Memory>& memory) {
    std::lock_guard lock(state.mutex);
    std::erase(state.memories, memory);
}

// --- type functions --------------------------------------------------------------------------------------------

/// GIL held, any thread.
PyObject* make_bus(PyTypeObject* type, PyObject* arguments, PyObject*) {
    const char *name, *label;
    PyObject* exports;
    int numpy_memory = 1, pickles = 0, system = 0, onlooker = 0;
    int worker = 0;
    double wait = 0;
    if (!PyArg_ParseTuple(arguments, "sOs|ppidpp", &name, &exports, &label, &numpy_memory, &pickles, &worker, &wait,
                          &system, &onlooker))
        return nullptr;
    if (worker < 0 || worker >= static_cast<int>(layout::max_peers)) {
        PyErr_Format(PyExc_ValueError, "worker=%d: workers have numbers from 0 to %d", worker,
                     static_cast<int>(layout::max_peers) - 1);
        return nullptr;
    }
    if (std::isnan(wait)) {
        PyErr_SetString(PyExc_ValueError, "wait is a number of seconds, not nan");
        return nullptr;
    }
    State& state = state_of(type);
    if (exports != Py_None && !PyObject_TypeCheck(exports, state.exports)) {
        PyErr_SetString(PyExc_TypeError, "exports must be an Exports or None");
        return nullptr;
    }
    PyObject* self = type->tp_alloc(type, 0);
    if (self == nullptr) return nullptr;
    auto& peer = *new (&peer_of(self)) Peer;
    peer.state = &state;
    peer.module = Py_NewRef(PyType_GetModule(type));
    peer.exports = Py_NewRef(exports);
    peer.name = name;
    peer.label = label;
    peer.is_system = system != 0;
    peer.is_service = exports != Py_None && !peer.is_system;
    peer.numpy_memory = numpy_memory != 0;
    peer.pickles = pickles != 0;
    peer.worker = static_cast<std::uint32_t>(worker);
    peer.onlooker = onlooker != 0;
    peer.wait = wait;
    return self;
}

int traverse_bus(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(peer_of(self).module);
    Py_VISIT(peer_of(self).exports);
    return peer_of(self).hooks.traverse(visit, arg);
}

int clear_bus(PyObject* self) {
    Py_CLEAR(peer_of(self).exports);
    peer_of(self).hooks.clear();
    Py_CLEAR(peer_of(self).module);
    return 0;
}

/// Nobody runs it any more, since run() holds a reference; unless this is a fork's child, which lets the parent's things be.
void dealloc_bus(PyObject* self) {
    PyObject_GC_UnTrack(self);
    Peer& peer = peer_of(self);
    if (peer.forks != fork_count()) (void)peer.bus.release();
    clear_bus(self);
    peer.~Peer();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/// Joins: without the GIL, on the dispatcher's thread. Throws Error.
void join(Peer& peer) {
    const rendezvous::Who who{PeerKind::python, peer.is_service, peer.label, peer.worker, peer.onlooker};
    constexpr double longest = 1e9;  // thirty years; more than that overflows nanoseconds
    const std::chrono::duration<double> wait(std::clamp(peer.wait, 0.0, longest));
    const auto appears = doorbell::Clock::now() + std::chrono::duration_cast<std::chrono::nanoseconds>(wait);
    auto invitation = rendezvous::ask(peer.name, who, {appears + std::chrono::seconds(10), appears, [&peer] {
                                                           return peer.stop.load(std::memory_order_relaxed);
                                                       }});
    std::unique_ptr<Bus> bus = Bus::join(std::move(invitation), peer.pickles);
    auto memory = std::make_shared<Memory>(*bus, peer.pickles);
    std::lock_guard lock(peer.gate);
    peer.bus = std::move(bus);
    peer.memory = std::move(memory);
}

/// Leaves: without the GIL, on the same thread.
void leave(Peer& peer) {
    std::unique_ptr<Bus> bus;
    std::shared_ptr<Memory> memory;
    {
        std::lock_guard lock(peer.gate);
        peer.was_lost = peer.bus->closed() && !peer.stop.load(std::memory_order_relaxed);
        bus = std::move(peer.bus);
        memory = std::move(peer.memory);
        peer.dispatcher = nullptr;
    }
    remove_memory(*peer.state, memory);
    peer.calls.end(Status::closed);
    memory->leave();
    bus.reset();
}

/// Wakes the dispatcher when there is one more export, for a scope.
class Watching {
public:
    Watching(ExportTable* table, Peer& peer) : table_(table), peer_(peer) {
        if (table_ != nullptr) table_->watch(&peer_, [&peer] { peer.wake(); });
    }
    ~Watching() {
        if (table_ != nullptr) table_->unwatch(&peer_);
    }
    Watching(const Watching&) = delete;
    Watching& operator=(const Watching&) = delete;

private:
    ExportTable* table_;
    Peer& peer_;
};

/// run(joined): GIL held on entry; becomes the dispatcher's thread until stop() is called or the bus ends.
PyObject* run(PyObject* self, PyObject* joined) {
    Peer& peer = peer_of(self);
    if (!is_ours(peer)) return nullptr;
    if (peer.has_run.exchange(true)) {
        PyErr_SetString(PyExc_RuntimeError, "a Bus runs once");
        return nullptr;
    }
    try {
        const WithoutGil without;
        join(peer);
    } catch (const Error& error) {
        raise_connect_error(*peer.state, error, peer.name);
        return nullptr;
    } catch (const std::exception& error) {
        raise_connect_error(*peer.state, Error(Status::no_memory, error.what()), peer.name);
        return nullptr;
    }
    const std::shared_ptr<Memory> memory = peer.memory;
    memory->objects().bus = self;
    if (!peer.is_system) add_memory(*peer.state, memory);
    ExportTable* table = peer.exports == Py_None ? nullptr : &export_table(peer.exports);
    const bool fine = guarded(*peer.state, false, [&] {
        Dispatcher dispatcher({*peer.state, *peer.bus, memory, peer.calls, peer.deferred, peer.hooks, table, peer.stop,
                               peer.drain, peer.numpy_memory});
        const Watching watching(table, peer);
        dispatcher.publish_exports();
        {
            std::lock_guard lock(peer.gate);
            peer.dispatcher = &dispatcher;
        }
        const Ref said(PyObject_CallNoArgs(joined));
        if (said) dispatcher.run();
        std::lock_guard lock(peer.gate);
        peer.dispatcher = nullptr;
        return true;
    });
    {
        Ref error = fine ? Ref() : take_exception();
        {
            const WithoutGil without;
            leave(peer);
        }
        memory->objects().clear();
        if (!fine) {
            PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
            return nullptr;
        }
    }
    Py_RETURN_NONE;
}

/// GIL held, any thread, signal handlers included.
PyObject* stop(PyObject* self, PyObject*) {
    Peer& peer = peer_of(self);
    if (peer.forks == fork_count()) {
        peer.stop.store(true, std::memory_order_release);
        peer.wake();
    }
    Py_RETURN_NONE;
}

/// Likewise.
PyObject* drain(PyObject* self, PyObject*) {
    Peer& peer = peer_of(self);
    if (peer.forks == fork_count()) {
        peer.drain.store(true, std::memory_order_release);
        std::lock_guard lock(peer.gate);
        if (peer.bus) {
            peer.bus->decline();  // the dispatcher may be busy for long
            peer.bus->wake();
        }
    }
    Py_RETURN_NONE;
}

PyObject* is_open(PyObject* self, void*) {
    Peer& peer = peer_of(self);
    return PyBool_FromLong(peer.forks == fork_count() && peer.open_memory() != nullptr);
}

PyObject* was_lost(PyObject* self, void*) { return PyBool_FromLong(peer_of(self).was_lost); }

PyObject* numpy_memory(PyObject* self, void*) { return PyBool_FromLong(peer_of(self).numpy_memory); }

PyObject* bus_name(PyObject* self, void*) { return PyUnicode_FromString(peer_of(self).name.c_str()); }

// --- slot tables ---------------------------------------------------------------------------------------------

PyMethodDef methods[] = {
    {"run", run, METH_O, "run(joined)\n--\n\nJoins, calls joined() and serves until stop(). Its thread is the peer."},
    {"stop", stop, METH_NOARGS, "stop()\n--\n\nLets run() finish what runs and return."},
    {"drain", drain, METH_NOARGS,
     "drain()\n--\n\nLets run() take no new calls, answer those that were made, and return."},
    {"call", call, METH_VARARGS,
     "call(target, args, kwargs, timeout)\n--\n\nCalls an export (its name), an object (a Reference), or performs "
     "('operate' or 'fetch', subject, steps), and waits for the result."},
    {"post", post, METH_VARARGS, "post(target, args)\n--\n\nCalls without waiting for anything."},
    {"start", start, METH_VARARGS,
     "start(target, args, kwargs, timeout, flags, credit, sink, tag)\n--\n\nBegins a call and returns its handle; "
     "sink is given lists of (tag, what, value)."},
    {"stream", stream, METH_VARARGS,
     "stream(target, args, kwargs, timeout, credit)\n--\n\nBegins a call whose result is iterated over there."},
    {"cancel", cancel, METH_O, "cancel(handle)\n--\n\nThe call is not waited for any longer."},
    {"credit", credit, METH_VARARGS, "credit(handle, count)\n--\n\nLets a stream send that many more items."},
    {"complete", complete, METH_O, "complete(outcomes)\n--\n\nTells (token, what, value) of deferred calls."},
    {"peers", peers, METH_NOARGS,
     "peers()\n--\n\nWho is on the bus: name, pid, worker (-1: it answers no calls), exports, load."},
    {"stats", stats, METH_NOARGS, "stats()\n--\n\nCounters of this peer and of its host."},
    {nullptr, nullptr, 0, nullptr},
};

/// The closure of each is its Hook. GIL held, any thread.
PyObject* get_hook(PyObject* self, void* which) {
    Ref function = peer_of(self).hooks.get(static_cast<Hook>(reinterpret_cast<std::intptr_t>(which)));
    return function ? function.give() : Py_NewRef(Py_None);
}
int set_hook(PyObject* self, PyObject* function, void* which) {
    const auto hook = static_cast<Hook>(reinterpret_cast<std::intptr_t>(which));
    peer_of(self).hooks.set(hook, function != nullptr ? function : Py_None);
    return 0;
}
PyGetSetDef hook(const char* name, Hook which, const char* about) {
    return {name, get_hook, set_hook, about, reinterpret_cast<void*>(static_cast<std::intptr_t>(which))};
}

PyGetSetDef attributes[] = {
    hook("runner", Hook::runner, "Performs deferred calls: a list of (token, callable, args, kwargs, call)."),
    hook("canceller", Hook::canceller, "Is told which deferred calls were cancelled: a list of tokens."),
    hook("on_credit", Hook::on_credit, "Is told of credit for deferred streams: a list of (token, count)."),
    hook("operator", Hook::operation, "Performs operations: (subject, steps, call)."),
    hook("reference_factory", Hook::reference_factory, "Makes what stands for a Reference."),
    {"name", bus_name, nullptr, "The name of the bus.", nullptr},
    {"numpy_memory", numpy_memory, nullptr, "Whether what exports make with numpy is to lie in the bus.", nullptr},
    {"is_open", is_open, nullptr, "Whether the bus is joined and not left yet.", nullptr},
    {"was_lost", was_lost, nullptr, "Whether the bus ended before stop() was called.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc,
     const_cast<char*>("Bus(name, exports, label, numpy_memory=True, pickle=False, worker=0, wait=0, system=False, "
                       "onlooker=False)\n--\n\nOne peer; with exports, one that answers calls, and a service unless it "
                       "is not to be one.")},
    {Py_tp_new, slot(make_bus)},
    {Py_tp_dealloc, slot(dealloc_bus)},
    {Py_tp_traverse, slot(traverse_bus)},
    {Py_tp_clear, slot(clear_bus)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, nullptr},
};

}  // namespace

PyType_Spec bus_spec = {"isthmus._isthmus.Bus", sizeof(Boxed<Peer>), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slots};

}  // namespace isthmus::python
