#include "view.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "errors.hpp"

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

namespace {

// As dlpack.h declares them; both layouts are stable.
namespace dlpack {
constexpr std::int32_t cpu = 1;
constexpr std::uint32_t newest_major = 1;

struct Tensor {
    void* data;
    std::int32_t device, device_number;
    std::int32_t dimensions;
    std::uint8_t code, bits;
    std::uint16_t lanes;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements; null: C order
    std::uint64_t offset;
};
struct Managed {
    Tensor tensor;
    void* context;
    void (*deleter)(Managed*);
};
struct Versioned {
    std::uint32_t major, minor;
    void* context;
    void (*deleter)(Versioned*);
    std::uint64_t flags;
    Tensor tensor;
};
}  // namespace dlpack

struct View {
    PyObject* owner = nullptr;      // owned
    Py_buffer held{};               // obj null: nothing is
    std::function<void()> release;  // of what else has the memory
    std::byte* data = nullptr;
    Py_ssize_t item_bytes = 0, bytes = 0;
    std::vector<Py_ssize_t> shape, strides;
    std::string format;

    /// From shape, strides and item_bytes. Where the first and the last byte are, from `data` on; false when the sizes overflow.
    bool measure(Py_ssize_t& first, Py_ssize_t& last) {
        first = last = 0;
        bytes = item_bytes;
        for (std::size_t i = 0; i < shape.size(); ++i) {
            Py_ssize_t reach = 0;
            if (shape[i] < 0 || __builtin_mul_overflow(bytes, shape[i], &bytes) ||
                __builtin_mul_overflow(std::max<Py_ssize_t>(shape[i] - 1, 0), strides[i], &reach) ||
                __builtin_add_overflow(reach < 0 ? first : last, reach, reach < 0 ? &first : &last)) {
                return false;
            }
        }
        format = std::to_string(item_bytes) + "s";
        return bytes == 0 || !__builtin_add_overflow(last, item_bytes, &last);
    }
    void in_c_order() {
        strides.resize(shape.size());
        Py_ssize_t step = item_bytes;
        for (std::size_t i = shape.size(); i-- > 0;) {
            strides[i] = step;
            if (__builtin_mul_overflow(step, std::max<Py_ssize_t>(shape[i], 1), &step)) step = 0;
        }
    }
};

View& view_of(PyObject* self) { return unbox<View>(self); }

Ref make(State& state) {
    Ref self(state.view->tp_alloc(state.view, 0));
    if (self) new (&view_of(self.get())) View;
    return self;
}

bool read_lengths(PyObject* sequence, std::vector<Py_ssize_t>& to) {
    const Ref items(PySequence_Fast(sequence, "shape and strides are sequences of integers"));
    if (!items) return false;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items.get()); ++i) {
        to.push_back(PyNumber_AsSsize_t(PySequence_Fast_GET_ITEM(items.get(), i), PyExc_OverflowError));
        if (to.back() == -1 && PyErr_Occurred()) return false;
    }
    return true;
}

bool refuse(const char* what) {
    PyErr_SetString(PyExc_ValueError, what);
    return false;
}

bool fill(View& view, PyObject* where, Py_ssize_t offset, PyObject* shape, PyObject* strides) {
    if (!read_lengths(shape, view.shape)) return false;
    if (strides == Py_None) {
        view.in_c_order();
    } else if (!read_lengths(strides, view.strides)) {
        return false;
    }
    Py_ssize_t first, last;
    if (view.shape.size() > PyBUF_MAX_NDIM || view.strides.size() != view.shape.size() || !view.measure(first, last))
        return refuse("shape and strides make no array");
    if (PyLong_Check(where)) {
        view.data = static_cast<std::byte*>(PyLong_AsVoidPtr(where));
        if (PyErr_Occurred()) return false;
        if (view.data == nullptr && view.bytes > 0) return refuse("the elements have no address");
    } else {
        if (PyObject_GetBuffer(where, &view.held, PyBUF_SIMPLE) < 0) return false;
        view.data = static_cast<std::byte*>(view.held.buf);
        if (offset < 0 || (view.bytes > 0 && (first < -offset || last > view.held.len - offset)))
            return refuse("the elements lie outside of the buffer that they are said to lie in");
    }
    view.data += offset;
    return true;
}

/// numpy's code; empty when it has none.
std::string code_of(const dlpack::Tensor& tensor) {
    constexpr const char* kinds = "iuf\0\0cb";  // by DLPack's code: handles and bfloat are in between
    if (tensor.code > 6 || kinds[tensor.code] == 0 || tensor.bits % 8 != 0 || tensor.bits == 0 || tensor.lanes != 1)
        return {};
    return (tensor.bits == 8 ? '|' : '<') + std::string(1, kinds[tensor.code]) + std::to_string(tensor.bits / 8);
}

bool fill(View& view, const dlpack::Tensor& tensor) {
    if (tensor.device != dlpack::cpu) return refuse("the tensor does not lie in the memory of the CPU");
    if (tensor.dimensions < 0 || tensor.dimensions > PyBUF_MAX_NDIM) return refuse("the tensor has no shape");
    view.item_bytes = tensor.bits / 8;
    view.shape.assign(tensor.shape, tensor.shape + tensor.dimensions);
    if (tensor.strides == nullptr) {
        view.in_c_order();
    } else {
        for (std::int32_t i = 0; i < tensor.dimensions; ++i)
            view.strides.push_back(tensor.strides[i] * view.item_bytes);
    }
    Py_ssize_t first, last;
    if (!view.measure(first, last)) return refuse("the tensor's shape and strides make no array");
    view.data = static_cast<std::byte*>(tensor.data) + tensor.offset;
    return true;
}

/// What the capsule holds, which is the view's from now on; null with an exception set.
template <class Held>
Held* take(View& view, PyObject* capsule, const char* name, const char* used) {
    auto* held = static_cast<Held*>(PyCapsule_GetPointer(capsule, name));
    if (held == nullptr || PyCapsule_SetName(capsule, used) < 0) return nullptr;
    view.release = [held] {
        if (held->deleter != nullptr) held->deleter(held);
    };
    return held;
}

const dlpack::Tensor* take_tensor(View& view, PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, "dltensor")) {
        const auto* held = take<dlpack::Managed>(view, capsule, "dltensor", "used_dltensor");
        return held != nullptr ? &held->tensor : nullptr;
    }
    const auto* held = take<dlpack::Versioned>(view, capsule, "dltensor_versioned", "used_dltensor_versioned");
    if (held == nullptr) return nullptr;
    if (held->major == dlpack::newest_major) return &held->tensor;
    refuse("the tensor comes in a version of DLPack that is newer than 1");
    return nullptr;
}

}  // namespace

// --- type functions: all with the GIL held, on any thread --------------------------------------------------------

PyObject* new_view_of_memory(PyObject* module, PyObject* arguments) {
    State& state = state_of(module);
    PyObject *owner, *where, *shape, *strides;
    Py_ssize_t offset, item_bytes;
    if (!PyArg_ParseTuple(arguments, "OOnnOO", &owner, &where, &offset, &item_bytes, &shape, &strides)) return nullptr;
    return guarded(state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        Ref self = make(state);
        if (!self) return nullptr;
        View& view = view_of(self.get());
        view.owner = Py_NewRef(owner);
        view.item_bytes = item_bytes;
        return fill(view, where, offset, shape, strides) ? self.give() : nullptr;
    });
}

PyObject* new_view_of_tensor(PyObject* module, PyObject* capsule) {
    State& state = state_of(module);
    return guarded(state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        Ref self = make(state);
        const dlpack::Tensor* tensor = self ? take_tensor(view_of(self.get()), capsule) : nullptr;
        if (tensor == nullptr) return nullptr;
        const std::string code = code_of(*tensor);
        if (code.empty()) {
            refuse("its elements are no numbers that can travel, such as bfloat16: convert them to float32");
            return nullptr;
        }
        return fill(view_of(self.get()), *tensor) ? Py_BuildValue("(s#O)", code.data(), code.size(), self.get())
                                                  : nullptr;
    });
}

namespace {

void dealloc(PyObject* self) {
    View& view = view_of(self);
    PyObject *type_set, *error, *traceback;
    PyErr_Fetch(&type_set, &error, &traceback);
    if (view.release) view.release();  // may be Python code
    PyErr_Restore(type_set, error, traceback);
    if (view.held.obj != nullptr) PyBuffer_Release(&view.held);
    Py_XDECREF(view.owner);
    view.~View();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

int get_buffer(PyObject* self, Py_buffer* out, int flags) {
    View& view = view_of(self);
    out->obj = nullptr;
    if ((flags & PyBUF_RECORDS_RO) != PyBUF_RECORDS_RO || (flags & PyBUF_WRITABLE) != 0) {
        PyErr_SetString(PyExc_BufferError, "a View shows elements with strides and a format, to be read");
        return -1;
    }
    *out = {.buf = view.data,
            .obj = Py_NewRef(self),
            .len = view.bytes,
            .itemsize = view.item_bytes,
            .readonly = 1,
            .ndim = static_cast<int>(view.shape.size()),
            .format = view.format.data(),
            .shape = view.shape.data(),
            .strides = view.strides.data(),
            .suboffsets = nullptr,
            .internal = nullptr};
    return 0;
}

// --- slot tables ---------------------------------------------------------------------------------------------

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("Elements in the memory of another object.")},
    {Py_tp_dealloc, slot(dealloc)},
    {Py_bf_getbuffer, slot(get_buffer)},
    {0, nullptr},
};

}  // namespace

PyType_Spec view_spec = {"isthmus._isthmus.View", sizeof(Boxed<View>), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace isthmus::python
