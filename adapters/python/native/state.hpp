// What one interpreter's copy of the module holds. No static objects: each interpreter has its own.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "bus/bus.hpp"
#include "fork.hpp"
#include "python.hpp"

namespace isthmus::python {

class Memory;

/// How a Python type travels; worked out once per type.
enum class Kind : int {
    none,
    boolean,
    integer,
    real,
    text,
    list,
    tuple,
    dict,
    set,
    complex,
    buffer,
    bytes,
    elements,
    enumeration,
    dataclass,
    named_tuple,
    instant,
    day_or_time,
    duration,
    as_text,
    numpy_scalar,
    naive_masked,
    slice,
    table,
    parcel,
    proxy,
    foreign,
};

struct Numpy {
    enum class Is : int { unknown, absent, here };
    std::atomic<Is> is = Is::unknown;  // once it is known, the rest stays as it is
    PyObject* ndarray = nullptr;
    PyObject* generic = nullptr;
    PyObject* masked = nullptr;
    PyObject* frombuffer = nullptr;
    PyObject* empty = nullptr;
    PyObject* dtypes[16] = {};  // by wire::DType
};

// All members are guarded by the GIL, where there is one, but for `memories` and `numpy`.
struct State {
    PyTypeObject* broker = nullptr;
    PyTypeObject* bus = nullptr;
    PyTypeObject* exports = nullptr;
    PyTypeObject* lease = nullptr;
    PyTypeObject* reference = nullptr;
    PyTypeObject* call = nullptr;
    PyTypeObject* stream = nullptr;
    PyTypeObject* view = nullptr;
    PyTypeObject* table = nullptr;
    PyTypeObject* parcel = nullptr;

    // isthmus.errors
    PyObject* error = nullptr;
    PyObject* connect_error = nullptr;
    PyObject* encode_error = nullptr;
    PyObject* not_exported = nullptr;
    PyObject* timeout_error = nullptr;
    PyObject* peer_lost = nullptr;
    PyObject* bus_full = nullptr;
    PyObject* python_error = nullptr;
    PyObject* js_error = nullptr;
    PyObject* cancelled = nullptr;
    PyObject* remote_error = nullptr;

    PyObject* format_exception = nullptr;
    PyObject* logger = nullptr;
    PyObject* datetime = nullptr;
    PyObject* date = nullptr;
    PyObject* time = nullptr;
    PyObject* timedelta = nullptr;
    PyObject* epoch = nullptr;
    PyObject* kinds = nullptr;           // dict: type -> Kind as int
    PyObject* reference_name = nullptr;  // the attribute in which a proxy has its Reference
    PyObject* about_name = nullptr;      // the attribute in which an error has what another peer told of it
    PyObject* calling = nullptr;         // ContextVar: the Call that a thread or a coroutine performs
    std::atomic<bool> defers = false;    // whether a Call was handed out that `calling` may hold
    Numpy numpy;

    ForkMutex mutex;                                // guards memories, and numpy while it is filled in
    std::vector<std::shared_ptr<Memory>> memories;  // of the buses this interpreter is on, the newest last

    /// Every owned reference, for traverse and clear.
    template <class Visit>
    int each(Visit&& visit) {
        PyObject** const objects[] = {reinterpret_cast<PyObject**>(&broker),
                                      reinterpret_cast<PyObject**>(&bus),
                                      reinterpret_cast<PyObject**>(&exports),
                                      reinterpret_cast<PyObject**>(&lease),
                                      reinterpret_cast<PyObject**>(&reference),
                                      reinterpret_cast<PyObject**>(&call),
                                      reinterpret_cast<PyObject**>(&stream),
                                      reinterpret_cast<PyObject**>(&view),
                                      reinterpret_cast<PyObject**>(&table),
                                      reinterpret_cast<PyObject**>(&parcel),
                                      &error,
                                      &connect_error,
                                      &encode_error,
                                      &not_exported,
                                      &timeout_error,
                                      &peer_lost,
                                      &bus_full,
                                      &python_error,
                                      &js_error,
                                      &cancelled,
                                      &remote_error,
                                      &reference_name,
                                      &about_name,
                                      &calling,
                                      &format_exception,
                                      &logger,
                                      &datetime,
                                      &date,
                                      &time,
                                      &timedelta,
                                      &epoch,
                                      &kinds,
                                      &numpy.ndarray,
                                      &numpy.generic,
                                      &numpy.masked,
                                      &numpy.frombuffer,
                                      &numpy.empty};
        for (PyObject** object : objects) {
            if (const int stop = visit(*object)) return stop;
        }
        for (PyObject*& dtype : numpy.dtypes) {
            if (const int stop = visit(dtype)) return stop;
        }
        return 0;
    }
};

/// The state of the module that defined a type or a method. GIL held.
State& state_of(PyObject* module);
State& state_of(PyTypeObject* type);

}  // namespace isthmus::python
