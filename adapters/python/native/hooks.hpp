// The functions that the package gives a Bus to call.
#pragma once

#include <array>

#include "fork.hpp"
#include "python.hpp"

namespace isthmus::python {

enum class Hook { runner, canceller, on_credit, operation, reference_factory };

/// All with the GIL held.
class Hooks {
public:
    /// Empty when there is none.
    Ref get(Hook hook) {
        std::lock_guard lock(mutex_);
        PyObject* function = functions_[static_cast<std::size_t>(hook)];
        return function == nullptr || function == Py_None ? Ref() : Ref::to(function);
    }
    void set(Hook hook, PyObject* function) {
        Ref before;
        std::lock_guard lock(mutex_);
        before = Ref(std::exchange(functions_[static_cast<std::size_t>(hook)], Py_NewRef(function)));
    }
    int traverse(visitproc visit, void* arg) {
        for (PyObject* function : functions_) Py_VISIT(function);
        return 0;
    }
    void clear() {
        for (PyObject*& function : functions_) Py_XDECREF(std::exchange(function, nullptr));
    }

private:
    ForkMutex mutex_;
    std::array<PyObject*, 5> functions_{};
};

}  // namespace isthmus::python
