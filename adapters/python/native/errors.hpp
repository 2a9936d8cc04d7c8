// Outcomes and exceptions: raised here, sent to a caller, and made from what a callee sent.
#pragma once

#include <exception>
#include <string>

#include "values.hpp"

namespace isthmus::python {

// All with the GIL held.

/// Sets the exception for an outcome; `what` is a whole sentence, or empty for the outcome's own.
void raise(State& state, Status status, const std::string& what = {});
/// Sets ConnectError for what setting a bus up has thrown, with what to run.
void raise_connect_error(State& state, const Error& error, const std::string& bus);
/// Sets EncodeError: where, and what is wrong there.
void raise_encode_error(State& state, const std::string& path, const std::string& what);

/// Takes the exception that is set, as an instance with its traceback.
Ref take_exception();
/// Appends the object of an error frame, with its `origin` if the exception may come back. Never fails, whatever the
/// exception's own methods do. An error that another peer told of goes on as it came.
void put_exception(State& state, Memory& memory, Outgoing& out, PyObject* exception, bool tells_origin);
/// logging.getLogger('isthmus').error(message, exc_info=exception).
void log_exception(State& state, const std::string& message, PyObject* exception);
/// Sets the exception that an error frame tells of.
void raise_remote(State& state, const std::shared_ptr<Memory>& memory, const wire::Draft& frame,
                  const std::string& name);

/// Runs what may throw C++ exceptions and returns `failed` with a Python exception set when it did.
template <class Result, class Function>
Result guarded(State& state, Result failed, Function&& function) {
    try {
        return function();
    } catch (const Error& error) {
        raise(state, error.status(), error.what());
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return failed;
}

}  // namespace isthmus::python
