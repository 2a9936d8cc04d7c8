#include "lease.hpp"

#include <atomic>
#include <cstring>
#include <new>

#include "errors.hpp"

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

namespace {

// Behind it: shape and strides, then the bytes of a copy. Written when it is made; the rest is atomic.
struct alignas(16) Lease {
    PyObject_VAR_HEAD std::shared_ptr<Memory> memory;  // null: a copy
    Memory::Hold hold;
    std::byte* data;
    Py_ssize_t bytes;
    std::atomic<Py_ssize_t> exports;  // buffers that are out; `ended` when the memory was given back
    wire::DType dtype;
    int dimensions;
    bool fortran;
    bool writable;

    Py_ssize_t* shape() { return reinterpret_cast<Py_ssize_t*>(this + 1); }
    Py_ssize_t* strides() { return shape() + dimensions; }
};

constexpr Py_ssize_t ended = -1;

Lease& lease_of(PyObject* self) { return *reinterpret_cast<Lease*>(self); }

Py_ssize_t up_to_16(Py_ssize_t bytes) { return (bytes + 15) & ~Py_ssize_t{15}; }

Lease* make(State& state, const Layout& layout, Py_ssize_t own_bytes, bool writable) {
    const auto dimensions = static_cast<Py_ssize_t>(layout.shape.size());
    const Py_ssize_t tables = up_to_16(2 * dimensions * static_cast<Py_ssize_t>(sizeof(Py_ssize_t)));
    PyObject* object = PyType_GenericAlloc(state.lease, tables + own_bytes);
    if (object == nullptr) return nullptr;
    Lease& lease = lease_of(object);
    new (&lease.memory) std::shared_ptr<Memory>();
    new (&lease.hold) Memory::Hold();
    new (&lease.exports) std::atomic<Py_ssize_t>(0);
    lease.dtype = layout.dtype;
    lease.dimensions = static_cast<int>(dimensions);
    lease.fortran = layout.fortran;
    lease.writable = writable;
    lease.data = reinterpret_cast<std::byte*>(lease.shape()) + tables;
    Py_ssize_t bytes = wire::item_bytes(layout.dtype);
    for (Py_ssize_t step = 0; step < dimensions; ++step) {
        const Py_ssize_t i = layout.fortran ? step : dimensions - 1 - step;
        lease.shape()[i] = layout.shape[i];
        lease.strides()[i] = bytes;
        bytes *= layout.shape[i];
    }
    lease.bytes = bytes;
    return &lease;
}

/// Gives the memory back. False while buffers are out.
bool end(Lease& lease) {
    Py_ssize_t none = 0;
    if (!lease.exports.compare_exchange_strong(none, ended)) return none == ended;
    if (lease.memory) lease.memory->drop(lease.hold);
    return true;
}

/// One more buffer. False when the memory was given back.
bool hand_out(Lease& lease) {
    Py_ssize_t out = lease.exports;
    while (out != ended) {
        if (lease.exports.compare_exchange_weak(out, out + 1)) return true;
    }
    return false;
}

}  // namespace

PyObject* new_lease(State& state, std::shared_ptr<Memory> memory, const Handle& handle, const Layout& layout,
                    bool writable) {
    Lease* lease = make(state, layout, 0, writable);
    if (lease == nullptr) {
        memory->release(handle);
        return nullptr;
    }
    lease->data = memory->at(handle);
    lease->hold.handle = handle;
    if (!memory->hold(lease->hold)) {
        Py_DECREF(lease);
        raise(state, Status::closed);
        return nullptr;
    }
    lease->memory = std::move(memory);
    return reinterpret_cast<PyObject*>(lease);
}

PyObject* new_copy(State& state, std::span<const std::byte> bytes, const Layout& layout, bool writable) {
    Lease* lease = make(state, layout, static_cast<Py_ssize_t>(bytes.size()), writable);
    if (lease != nullptr && !bytes.empty()) std::memcpy(lease->data, bytes.data(), bytes.size());
    return reinterpret_cast<PyObject*>(lease);
}

const char* format_of(wire::DType dtype) {
    static constexpr const char* formats[] = {"B", "?", "b", "B", "h", "H",  "i",  "I",
                                              "q", "Q", "e", "f", "d", "Zf", "Zd", "B"};
    return formats[static_cast<std::size_t>(dtype)];
}

// --- type functions: all with the GIL held, on any thread --------------------------------------------------------

namespace {

void dealloc(PyObject* self) {
    Lease& lease = lease_of(self);
    (void)end(lease);
    lease.memory.~shared_ptr();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
    Lease& lease = lease_of(self);
    view->obj = nullptr;
    const char* refusal = nullptr;
    const auto asks_for = [flags](int what) { return (flags & what) == what; };
    if (asks_for(PyBUF_WRITABLE) && !lease.writable) {
        refusal = "the memory belongs to the sender and is read-only here: copy it, or let the sender move it";
    }
    if (lease.dimensions > 1) {
        if (lease.fortran && (asks_for(PyBUF_C_CONTIGUOUS) || !asks_for(PyBUF_STRIDES)))
            refusal = "the elements lie in Fortran order";
        if (!lease.fortran && asks_for(PyBUF_F_CONTIGUOUS)) refusal = "the elements lie in C order";
    }
    if (refusal == nullptr && !hand_out(lease)) refusal = "the memory was released already";
    if (refusal != nullptr) {
        PyErr_SetString(PyExc_BufferError, refusal);
        return -1;
    }
    view->obj = Py_NewRef(self);
    view->buf = lease.data;
    view->len = lease.bytes;
    view->readonly = !lease.writable;
    view->itemsize = wire::item_bytes(lease.dtype);
    view->format = asks_for(PyBUF_FORMAT) ? const_cast<char*>(format_of(lease.dtype)) : nullptr;
    view->ndim = lease.dimensions;
    view->shape = asks_for(PyBUF_ND) ? lease.shape() : nullptr;
    view->strides = asks_for(PyBUF_STRIDES) ? lease.strides() : nullptr;
    view->suboffsets = nullptr;
    view->internal = nullptr;
    return 0;
}

void release_buffer(PyObject* self, Py_buffer*) { --lease_of(self).exports; }

PyObject* release(PyObject* self, PyObject*) {
    Lease& lease = lease_of(self);
    if (end(lease)) Py_RETURN_NONE;
    PyErr_Format(PyExc_BufferError, "%zd array(s) or memoryview(s) still look at this memory: drop them first",
                 lease.exports.load());
    return nullptr;
}

PyObject* enter(PyObject* self, PyObject*) { return Py_NewRef(self); }

PyObject* leave(PyObject* self, PyObject*) { return release(self, nullptr); }

PyObject* get_released(PyObject* self, void*) { return PyBool_FromLong(lease_of(self).exports == ended); }
PyObject* get_nbytes(PyObject* self, void*) { return PyLong_FromSsize_t(lease_of(self).bytes); }
PyObject* get_in_bus(PyObject* self, void*) {
    return PyBool_FromLong(lease_of(self).memory && lease_of(self).exports != ended);
}

// --- slot tables ---------------------------------------------------------------------------------------------

PyMethodDef methods[] = {
    {"release", release, METH_NOARGS,
     "release()\n--\n\nGives the memory back now. BufferError while an array or memoryview still looks at it."},
    {"__enter__", enter, METH_NOARGS, nullptr},
    {"__exit__", leave, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"released", get_released, nullptr, "Whether the memory was given back.", nullptr},
    {"nbytes", get_nbytes, nullptr, "Bytes of the elements.", nullptr},
    {"in_bus", get_in_bus, nullptr, "Whether the elements lie in the memory of a bus.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc,
     const_cast<char*>("Memory of a bus, kept as long as this object is: what the arrays of a call lie in.")},
    {Py_tp_dealloc, slot(dealloc)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_bf_getbuffer, slot(get_buffer)},
    {Py_bf_releasebuffer, slot(release_buffer)},
    {0, nullptr},
};

}  // namespace

PyType_Spec lease_spec = {"isthmus._isthmus.Lease", sizeof(Lease), 1,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace isthmus::python
