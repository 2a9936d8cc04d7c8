// A call that is to be made, from the arguments of Bus.call, start and stream; and what came of it. All with the GIL held.
#pragma once

#include "peer.hpp"

namespace isthmus::python {

/// A flag of `start` alone: the call is no part of the one that the thread performs, and has its own time.
inline constexpr int detached = 1 << 16;

/// Makes and encodes a call. `target` is a name, (name, sticky), a Reference, or ("operate", subject, steps). Null with an exception set.
std::shared_ptr<Pending> prepare(Peer& peer, PyObject* target, PyObject* positional, PyObject* named, PyObject* timeout,
                                 int flags);
/// Brings its arrays into the bus and queues it. False with an exception set.
bool begin(Peer& peer, const std::shared_ptr<Pending>& call);

/// Waits until `done` is posted, with the GIL free; the dispatcher's own thread serves the call's activity meanwhile.
/// `until` is CLOCK_MONOTONIC nanoseconds, or 0. A signal ends it when its handler raises.
Awaited await(Pending& call, std::uint64_t until);

/// What a settled call has resulted in; null with an exception set.
PyObject* result_of(State& state, Pending& call);
/// The items of a frame, in a list; null with an exception set.
PyObject* items_of(State& state, Pending& call, const Pending::Frame& bytes);
/// Ends what came with a frame that is not decoded.
void drop_frame(State& state, Pending& call, const Pending::Frame& bytes);

/// start, cancel, credit, stream: any thread.
PyObject* start(PyObject* self, PyObject* arguments);
PyObject* cancel(PyObject* self, PyObject* handle);
PyObject* credit(PyObject* self, PyObject* arguments);
PyObject* stream(PyObject* self, PyObject* arguments);

extern PyType_Spec stream_spec;

}  // namespace isthmus::python
