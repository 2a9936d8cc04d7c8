// CPython's headers, and the few helpers that every file of this folder uses.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <memory>
#include <utility>

namespace isthmus::python {

/// One owned reference. GIL held wherever one is made, copied or dropped.
class Ref {
public:
    Ref() = default;
    explicit Ref(PyObject* owned) : object_(owned) {}
    static Ref to(PyObject* borrowed) { return Ref(Py_XNewRef(borrowed)); }
    Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Ref& operator=(Ref&& other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Ref() { Py_XDECREF(object_); }
    PyObject* get() const { return object_; }
    PyObject* give() { return std::exchange(object_, nullptr); }
    explicit operator bool() const { return object_ != nullptr; }

private:
    PyObject* object_ = nullptr;
};

/// Takes the GIL. A daemon thread that outlives the interpreter stays here for ever, as it does from CPython 3.14 on: earlier ones
/// unwind its stack, which ends the process where a destructor is noexcept (https://github.com/python/cpython/issues/87135).
void restore(PyThreadState* thread);

/// Gives the GIL back for a scope.
class WithoutGil {
public:
    WithoutGil() : thread_(PyEval_SaveThread()) {}
    ~WithoutGil() { restore(thread_); }
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;

private:
    PyThreadState* thread_;
};

/// The native part of a Python object whose type's basic size has room for a T behind the head.
template <class T>
struct Boxed {
    PyObject_HEAD T native;
};
template <class T>
T& unbox(PyObject* object) {
    return reinterpret_cast<Boxed<T>*>(object)->native;
}

/// A slot's function as the untyped pointer that PyType_Slot and PyModuleDef_Slot carry.
template <class Function>
void* slot(Function* function) {
    return reinterpret_cast<void*>(function);
}

}  // namespace isthmus::python
