#include "peer.hpp"

#include <time.h>

#include <cerrno>
#include <new>
#include <string>

#include "arrays.hpp"
#include "dispatcher.hpp"
#include "errors.hpp"

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

namespace {

struct BrokerBox {
    std::unique_ptr<rendezvous::Broker> broker;  // guarded by the GIL; null once closed
    std::string path;
    std::uint64_t forks = fork_count();
};

struct Peer {
    // Written once, by the constructor.
    State* state = nullptr;
    PyObject* module = nullptr;   // owned: keeps the state
    PyObject* exports = nullptr;  // owned; None: it offers nothing
    std::string name;
    std::string label;
    bool is_service = false;
    std::uint64_t forks = fork_count();

    std::atomic<bool> stop{false};
    Calls calls;

    std::mutex gate;                   // guards what follows; held for moments, never with the GIL wanted
    std::unique_ptr<Bus> bus;          // made and destroyed by the dispatcher's thread
    std::shared_ptr<Memory> memory;    // as long as the bus is there
    Dispatcher* dispatcher = nullptr;  // likewise
    std::atomic<bool> has_run{false};
    bool was_lost = false;  // the bus ended by itself

    std::shared_ptr<Memory> open_memory() {
        std::lock_guard lock(gate);
        return memory;
    }
    void wake() {
        std::lock_guard lock(gate);
        if (bus) bus->wake();
    }
};

Peer& peer_of(PyObject* self) { return unbox<Peer>(self); }

/// A bus that was joined before a fork is the parent's.
bool is_ours(Peer& peer) {
    if (peer.forks == fork_count()) return true;
    PyErr_Format(peer.state->peer_lost,
                 "the bus '%s' was joined before this process was forked and belongs to the parent: connect again here",
                 peer.name.c_str());
    return false;
}

void add_memory(State& state, const std::shared_ptr<Memory>& memory) {
    std::lock_guard lock(state.mutex);
    state.memories.push_back(memory);
}

void remove_memory(State& state, const std::shared_ptr<Memory>& memory) {
    std::lock_guard lock(state.mutex);
    std::erase(state.memories, memory);
}

// --- Broker: the GIL held on entry, given back while the kernel works ----------------------------------------------

PyObject* make_broker(PyTypeObject* type, PyObject* arguments, PyObject*) {
    State& state = state_of(type);
    const char* name;
    unsigned long long memory, ring;
    if (!PyArg_ParseTuple(arguments, "sKK", &name, &memory, &ring)) return nullptr;
    std::unique_ptr<rendezvous::Broker> broker;
    try {
        const WithoutGil without;
        rendezvous::BrokerOptions options{.bus = name};
        if (memory != 0) options.arena_bytes = memory;
        if (ring != 0) options.ring_bytes = ring;
        broker = std::make_unique<rendezvous::Broker>(options);
    } catch (const Error& error) {
        raise_connect_error(state, error, name);
        return nullptr;
    } catch (const std::exception& error) {
        raise_connect_error(state, Error(Status::no_memory, error.what()), name);
        return nullptr;
    }
    PyObject* self = type->tp_alloc(type, 0);
    if (self == nullptr) return nullptr;
    auto& box = *new (&unbox<BrokerBox>(self)) BrokerBox;
    box.path = broker->path();
    box.broker = std::move(broker);
    return self;
}

PyObject* close_broker(PyObject* self, PyObject*) {
    auto& box = unbox<BrokerBox>(self);
    std::unique_ptr<rendezvous::Broker> broker = std::move(box.broker);
    if (box.forks != fork_count()) {
        (void)broker.release();  // the parent's, with its thread and its socket
    } else {
        const WithoutGil without;
        broker.reset();
    }
    Py_RETURN_NONE;
}

void dealloc_broker(PyObject* self) {
    Py_XDECREF(close_broker(self, nullptr));
    unbox<BrokerBox>(self).~BrokerBox();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject* broker_path(PyObject* self, void*) { return PyUnicode_FromString(unbox<BrokerBox>(self).path.c_str()); }

// --- Bus ---------------------------------------------------------------------------------------------------------

/// GIL held, any thread.
PyObject* make_bus(PyTypeObject* type, PyObject* arguments, PyObject*) {
    const char *name, *label;
    PyObject* exports;
    if (!PyArg_ParseTuple(arguments, "sOs", &name, &exports, &label)) return nullptr;
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
    peer.is_service = exports != Py_None;
    return self;
}

int traverse_bus(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(peer_of(self).module);
    Py_VISIT(peer_of(self).exports);
    return 0;
}

int clear_bus(PyObject* self) {
    Py_CLEAR(peer_of(self).exports);
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
    const rendezvous::Who who{PeerKind::python, peer.is_service, peer.label};
    auto invitation = rendezvous::ask(peer.name, who, doorbell::Clock::now() + std::chrono::seconds(10));
    std::unique_ptr<Bus> bus = Bus::join(std::move(invitation));
    auto memory = std::make_shared<Memory>(*bus);
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
    peer.calls.end(Status::closed, *memory);
    memory->leave();
    bus.reset();
}

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
    add_memory(*peer.state, peer.memory);
    ExportTable* table = peer.exports == Py_None ? nullptr : &export_table(peer.exports);
    const bool fine = guarded(*peer.state, false, [&] {
        Dispatcher dispatcher(*peer.state, *peer.bus, peer.memory, peer.calls, table, peer.stop);
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

/// call(name, args, kwargs, timeout): GIL held on entry, given back while waiting. Any thread.
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

PyObject* counters_dict(const layout::Counters* counters) {
    if (counters == nullptr) return Py_NewRef(Py_None);
    const std::pair<const char*, const layout::Word64*> all[] = {
        {"calls", &counters->calls},
        {"posts", &counters->posts},
        {"replies", &counters->replies},
        {"errors", &counters->errors},
        {"frames_sent", &counters->frames_sent},
        {"frames_received", &counters->frames_received},
        {"bytes_sent", &counters->bytes_sent},
        {"bytes_received", &counters->bytes_received},
        {"bytes_copied", &counters->bytes_copied},
        {"full", &counters->full},
        {"wakes", &counters->wakes},
        {"sleeps", &counters->sleeps},
        {"spins", &counters->spins},
        {"batches", &counters->batches},
        {"gil_takes", &counters->gil_takes},
        {"leases_taken", &counters->leases_taken},
        {"leases_released", &counters->leases_released},
        {"leases_refused", &counters->leases_refused},
        {"chunks_taken", &counters->chunks_taken},
        {"chunks_returned", &counters->chunks_returned},
        {"links_opened", &counters->links_opened},
        {"links_lost", &counters->links_lost},
        {"links_corrupt", &counters->links_corrupt},
    };
    Ref dict(PyDict_New());
    for (const auto& [name, counter] : all) {
        Ref number(PyLong_FromUnsignedLongLong(counter->load(std::memory_order_relaxed)));
        if (!dict || !number || PyDict_SetItemString(dict.get(), name, number.get()) < 0) return nullptr;
    }
    const auto add_list = [&dict](const char* name, std::span<const layout::Word64> words) {
        Ref list(PyList_New(static_cast<Py_ssize_t>(words.size())));
        for (std::size_t i = 0; list && i < words.size(); ++i) {
            PyObject* number = PyLong_FromUnsignedLongLong(words[i].load(std::memory_order_relaxed));
            if (number == nullptr) return false;
            PyList_SET_ITEM(list.get(), static_cast<Py_ssize_t>(i), number);
        }
        return list && PyDict_SetItemString(dict.get(), name, list.get()) == 0;
    };
    if (!add_list("batch_sizes", counters->batch_sizes) || !add_list("latencies", counters->latencies)) return nullptr;
    return dict.give();
}

/// GIL held, any thread: the gate keeps the segment while it is read.
PyObject* stats(PyObject* self, PyObject*) {
    Peer& peer = peer_of(self);
    if (!is_ours(peer)) return nullptr;
    std::lock_guard lock(peer.gate);
    if (!peer.bus) {
        raise(*peer.state, Status::closed, "the bus '" + peer.name + "' is closed");
        return nullptr;
    }
    const std::uint32_t host = peer.is_service              ? peer.bus->slot()
                               : peer.dispatcher != nullptr ? peer.dispatcher->service_slot()
                                                            : layout::max_peers;
    Ref own(counters_dict(&peer.bus->counters()));
    Ref hosts(own ? counters_dict(peer.bus->counters_of(host)) : nullptr);
    return hosts ? Py_BuildValue("{s:O,s:O}", "self", own.get(), "host", hosts.get()) : nullptr;
}

PyObject* is_open(PyObject* self, void*) {
    Peer& peer = peer_of(self);
    return PyBool_FromLong(peer.forks == fork_count() && peer.open_memory() != nullptr);
}

PyObject* was_lost(PyObject* self, void*) { return PyBool_FromLong(peer_of(self).was_lost); }

PyObject* bus_name(PyObject* self, void*) { return PyUnicode_FromString(peer_of(self).name.c_str()); }

}  // namespace

PyObject* allocate(PyObject* module, PyObject* arguments) {
    State& state = state_of(module);
    int dtype;
    PyObject* lengths;
    if (!PyArg_ParseTuple(arguments, "iO!", &dtype, &PyTuple_Type, &lengths)) return nullptr;
    std::vector<Py_ssize_t> shape;
    std::vector<wire::Cell> extents;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(lengths); ++i) {
        const Py_ssize_t length = PyLong_AsSsize_t(PyTuple_GET_ITEM(lengths, i));
        if (length == -1 && PyErr_Occurred()) return nullptr;
        if (length < 0 || i == PyBUF_MAX_NDIM) {
            PyErr_SetString(PyExc_ValueError, "a shape has at most 64 lengths, each from 0 on");
            return nullptr;
        }
        shape.push_back(length);
        extents.push_back({wire::Tag::extent, wire::DType::none, 0, 0, static_cast<std::uint64_t>(length)});
    }
    const auto type = static_cast<wire::DType>(dtype);
    bool overflow = wire::item_bytes(type) == 0;
    const std::uint64_t bytes = overflow ? 0 : wire::array_bytes(type, extents, overflow);
    if (overflow) {
        PyErr_SetString(PyExc_ValueError, "the shape and the dtype make no array");
        return nullptr;
    }
    return guarded(state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        std::shared_ptr<Memory> memory;
        {
            std::lock_guard lock(state.mutex);
            for (const auto& each : state.memories) {
                if (each->is_ours()) memory = each;
            }
        }
        if (!memory) {
            raise(state, Status::closed,
                  "this process is on no bus, so there is no memory to allocate from: serve or connect first");
            return nullptr;
        }
        Arena::Allocation made{Status::closed, {}};
        {
            const WithoutGil without;
            made = memory->allocate(std::max<std::uint64_t>(bytes, 1));
        }
        if (made.status != Status::ok) {
            raise(state, made.status);
            return nullptr;
        }
        const bool has_numpy = numpy(state).is == Numpy::Is::here;
        const auto flat = static_cast<Py_ssize_t>(bytes);
        const Layout wanted{type, shape, false};
        const Layout shown = has_numpy ? Layout{wire::DType::uint8, {&flat, 1}, false} : wanted;
        return new_array(state, new_lease(state, memory, made.handle, shown, true), wanted);
    });
}

// --- slot tables ---------------------------------------------------------------------------------------------

namespace {

PyMethodDef broker_methods[] = {
    {"close", close_broker, METH_NOARGS, "close()\n--\n\nEnds the bus and removes its socket."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef broker_attributes[] = {
    {"path", broker_path, nullptr, "The bus's socket.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot broker_slots[] = {
    {Py_tp_doc, const_cast<char*>("Broker(name, memory, ring)\n--\n\nCreates a bus and serves its socket.")},
    {Py_tp_new, slot(make_broker)},
    {Py_tp_dealloc, slot(dealloc_broker)},
    {Py_tp_methods, broker_methods},
    {Py_tp_getset, broker_attributes},
    {0, nullptr},
};

PyMethodDef bus_methods[] = {
    {"run", run, METH_O, "run(joined)\n--\n\nJoins, calls joined() and serves until stop(). Its thread is the peer."},
    {"stop", stop, METH_NOARGS, "stop()\n--\n\nLets run() finish what runs and return."},
    {"call", call, METH_VARARGS,
     "call(name, args, kwargs, timeout)\n--\n\nCalls an export of a host and waits for its result."},
    {"stats", stats, METH_NOARGS, "stats()\n--\n\nCounters of this peer and of its host."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef bus_attributes[] = {
    {"name", bus_name, nullptr, "The name of the bus.", nullptr},
    {"is_open", is_open, nullptr, "Whether the bus is joined and not left yet.", nullptr},
    {"was_lost", was_lost, nullptr, "Whether the bus ended before stop() was called.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot bus_slots[] = {
    {Py_tp_doc, const_cast<char*>("Bus(name, exports, label)\n--\n\nOne peer; with exports, one that answers calls.")},
    {Py_tp_new, slot(make_bus)},
    {Py_tp_dealloc, slot(dealloc_bus)},
    {Py_tp_traverse, slot(traverse_bus)},
    {Py_tp_clear, slot(clear_bus)},
    {Py_tp_methods, bus_methods},
    {Py_tp_getset, bus_attributes},
    {0, nullptr},
};

}  // namespace

PyType_Spec broker_spec = {"isthmus._isthmus.Broker", sizeof(Boxed<BrokerBox>), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, broker_slots};
PyType_Spec bus_spec = {"isthmus._isthmus.Bus", sizeof(Boxed<Peer>), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, bus_slots};

}  // namespace isthmus::python
