// The Python object Call: what a handler may know of the call that it performs.
#pragma once

#include <atomic>
#include <string>

#include "memory.hpp"
#include "state.hpp"

namespace isthmus::python {

/// Written once, but for `cancelled`, which the dispatcher sets.
struct CallInfo {
    std::shared_ptr<Memory> memory;
    std::string name;  // of the export; empty for an object
    std::uint32_t slot = 0, credit = 0;
    std::uint64_t deadline = 0;
    std::uint64_t activity = 0;  // of the calls that it leads to
    std::atomic<bool> cancelled{false};
};

/// GIL held.
PyObject* new_call_info(State& state, const std::shared_ptr<Memory>& memory, const std::string& name,
                        std::uint32_t slot, std::uint64_t id, const wire::Draft& frame);
CallInfo& call_info(PyObject* call);

/// What a call that is made on this thread carries on.
struct Calling {
    std::uint64_t activity = 0, deadline = 0;
};
/// From the call that the dispatcher's thread performs, else from the context variable. GIL held.
Calling calling_here(State& state, const Memory& memory);

/// current(): GIL held, any thread.
PyObject* current(PyObject* module, PyObject*);

extern PyType_Spec call_spec;

}  // namespace isthmus::python
