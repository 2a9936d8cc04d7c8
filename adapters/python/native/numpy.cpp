#include <algorithm>
#include <mutex>

#include "arrays.hpp"

namespace isthmus::python {

namespace {

constexpr const char* dtype_names[] = {nullptr,   "bool",      "int8",       "uint8",  "int16",   "uint16",
                                       "int32",   "uint32",    "int64",      "uint64", "float16", "float32",
                                       "float64", "complex64", "complex128", "uint8"};

bool load(Numpy& numpy) {
    Ref module(PyImport_ImportModule("numpy"));
    if (!module) return false;
    const auto fetch = [&](PyObject*& to, const char* name) {
        to = PyObject_GetAttrString(module.get(), name);
        return to != nullptr;
    };
    if (!fetch(numpy.ndarray, "ndarray") || !fetch(numpy.generic, "generic") ||
        !fetch(numpy.frombuffer, "frombuffer") || !fetch(numpy.empty, "empty")) {
        return false;
    }
    Ref ma(PyImport_ImportModule("numpy.ma"));
    if (!ma || !(numpy.masked = PyObject_GetAttrString(ma.get(), "MaskedArray"))) return false;
    Ref dtype(PyObject_GetAttrString(module.get(), "dtype"));
    for (std::size_t i = 1; dtype && i < std::size(dtype_names); ++i) {
        numpy.dtypes[i] = PyObject_CallFunction(dtype.get(), "s", dtype_names[i]);
        if (numpy.dtypes[i] == nullptr) return false;
    }
    return static_cast<bool>(dtype);
}

PyObject* shape_tuple(std::span<const Py_ssize_t> shape) {
    PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(shape.size()));
    for (std::size_t i = 0; tuple != nullptr && i < shape.size(); ++i) {
        PyObject* length = PyLong_FromSsize_t(shape[i]);
        if (length == nullptr) {
            Py_DECREF(tuple);
            return nullptr;
        }
        PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(i), length);
    }
    return tuple;
}

}  // namespace

const Numpy& numpy(State& state) {
    if (state.numpy.is.load(std::memory_order_acquire) != Numpy::Is::unknown) return state.numpy;
    Numpy found;
    const bool here = load(found);
    if (!here) PyErr_Clear();
    // The import gives the GIL back now and then, so another thread may have been here first.
    std::lock_guard lock(state.mutex);
    Numpy& known = state.numpy;
    if (known.is.load(std::memory_order_relaxed) != Numpy::Is::unknown) return known;
    known.ndarray = found.ndarray;
    known.generic = found.generic;
    known.masked = found.masked;
    known.frombuffer = found.frombuffer;
    known.empty = found.empty;
    std::copy(std::begin(found.dtypes), std::end(found.dtypes), std::begin(known.dtypes));
    known.is.store(here ? Numpy::Is::here : Numpy::Is::absent, std::memory_order_release);
    return known;
}

const Numpy* numpy_if_imported(State& state) {
    if (state.numpy.is == Numpy::Is::unknown) {
        PyObject* modules = PyImport_GetModuleDict();
        PyObject* module = modules != nullptr ? PyDict_GetItemString(modules, "numpy") : nullptr;
        if (module == nullptr) return nullptr;
    }
    const Numpy& found = numpy(state);
    return found.is == Numpy::Is::here ? &found : nullptr;
}

PyObject* new_array(State& state, PyObject* backing, const Layout& layout) {
    Ref bytes(backing);
    if (!bytes) return nullptr;
    const Numpy& np = numpy(state);
    if (np.is != Numpy::Is::here) return PyMemoryView_FromObject(bytes.get());
    PyObject* dtype = np.dtypes[static_cast<std::size_t>(layout.dtype)];
    const bool empty = std::find(layout.shape.begin(), layout.shape.end(), 0) != layout.shape.end();
    if (empty) {
        Ref shape(shape_tuple(layout.shape));
        PyObject* arguments[] = {nullptr, shape.get(), dtype};
        return shape ? PyObject_Vectorcall(np.empty, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr)
                     : nullptr;
    }
    PyObject* arguments[] = {nullptr, bytes.get(), dtype};
    Ref flat(PyObject_Vectorcall(np.frombuffer, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
    if (!flat || layout.shape.size() == 1) return flat.give();
    Ref shape(shape_tuple(layout.shape));
    Ref reshape(PyObject_GetAttrString(flat.get(), "reshape"));
    if (!shape || !reshape) return nullptr;
    if (!layout.fortran) return PyObject_CallOneArg(reshape.get(), shape.get());
    Ref positional(PyTuple_Pack(1, shape.get()));
    Ref named(Py_BuildValue("{s:s}", "order", "F"));
    return positional && named ? PyObject_Call(reshape.get(), positional.get(), named.get()) : nullptr;
}

PyObject* new_view(State& state, PyObject* bytes, PyObject* dtype, const Layout& layout,
                   std::span<const Py_ssize_t> strides, Py_ssize_t start) {
    Ref shape(shape_tuple(layout.shape));
    Ref steps(strides.empty() ? Py_NewRef(Py_None) : shape_tuple(strides));
    // numpy makes no array without elements over a buffer that is too small for one.
    const bool empty = std::find(layout.shape.begin(), layout.shape.end(), 0) != layout.shape.end();
    Ref positional(shape && steps ? PyTuple_Pack(1, shape.get()) : nullptr);
    Ref named(empty ? Py_BuildValue("{s:O}", "dtype", dtype)
                    : Py_BuildValue("{s:O,s:O,s:n,s:O,s:s}", "dtype", dtype, "buffer", bytes, "offset", start,
                                    "strides", steps.get(), "order", layout.fortran ? "F" : "C"));
    return positional && named ? PyObject_Call(numpy(state).ndarray, positional.get(), named.get()) : nullptr;
}

}  // namespace isthmus::python
