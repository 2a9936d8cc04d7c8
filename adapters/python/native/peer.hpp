// The Python object Bus: one peer, with the dispatcher's thread and the callers' threads around it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "dispatcher.hpp"

namespace isthmus::python {

struct Peer {
    // Written once, by the constructor.
    State* state = nullptr;
    PyObject* module = nullptr;   // owned: keeps the state
    PyObject* exports = nullptr;  // owned; None: it offers nothing
    std::string name;
    std::string label;
    bool is_system =
        false;  // part of the machinery: what it exports is found by name alone, and no array is made in its memory
    bool is_service = false;   // it answers calls, also of names that nobody exports
    bool numpy_memory = true;  // whether exports' arrays are allocated in the bus
    bool pickles = false;      // whether it asked for values as pickles
    std::uint32_t worker = 0;  // its number among those that export the same
    double wait = 0;           // seconds for the bus to be there
    bool onlooker = false;     // needs no service to be there
    std::uint64_t forks = fork_count();

    std::atomic<bool> stop{false}, drain{false};
    Calls calls;
    Deferred deferred;
    Hooks hooks;

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

inline Peer& peer_of(PyObject* self) { return unbox<Peer>(self); }

/// False with PeerLost set when the bus was joined before a fork, and so is the parent's. GIL held.
bool is_ours(Peer& peer);

/// call(target, args, kwargs, timeout): GIL held on entry, given back while waiting. Any thread.
PyObject* call(PyObject* self, PyObject* arguments);
/// post(target, args): a call of which nothing is awaited. Likewise.
PyObject* post(PyObject* self, PyObject* arguments);
/// peers(), stats(): GIL held. Any thread.
PyObject* peers(PyObject* self, PyObject*);
PyObject* stats(PyObject* self, PyObject*);

extern PyType_Spec bus_spec;

}  // namespace isthmus::python
