#include <bit>
#include <cmath>

#include "arrays.hpp"
#include "errors.hpp"
#include "reference.hpp"
#include "values.hpp"

namespace isthmus::python {

void discard(Bus& bus, Memory& memory, const wire::Draft& frame) {
    bus.discard(frame);
    memory.objects().unpin_all(frame);
}

Decoder::~Decoder() {
    for (std::size_t i = 0; i < frame_.payloads.size(); ++i) {
        if (i >= 64 || (taken_ >> i & 1) == 0) memory_->release(frame_.payloads[i]);
    }
    if ((frame_.flags & wire::frame_references) == 0) return;
    Objects& objects = memory_->objects();
    for (; at_ < frame_.cells.size(); ++at_) {
        const wire::Cell& cell = frame_.cells[at_];
        if (cell.tag == wire::Tag::reference && !objects.owns(cell))
            (void)objects.give_back({cell.bits, cell.count}, 1);
    }
    objects.unpin_all(frame_);
}

/// One use of a payload for an object to keep: the frame's own the first time, one more after that.
Handle Decoder::take(std::uint64_t payload) {
    const Handle& handle = frame_.payloads[payload];
    const std::uint64_t bit = payload < 64 ? std::uint64_t{1} << payload : 0;
    if (bit != 0 && (taken_ & bit) == 0) {
        taken_ |= bit;
    } else {
        (void)memory_->retain(handle);
    }
    return handle;
}

PyObject* Decoder::next() {
    const wire::Cell& cell = frame_.cells[at_++];
    switch (cell.tag) {
        case wire::Tag::null: return Py_NewRef(Py_None);
        case wire::Tag::boolean: return PyBool_FromLong(cell.bits != 0);
        case wire::Tag::integer: return PyLong_FromLongLong(static_cast<std::int64_t>(cell.bits));
        case wire::Tag::real: return PyFloat_FromDouble(std::bit_cast<double>(cell.bits));
        case wire::Tag::text: return text(cell);
        case wire::Tag::list: return list(cell);
        case wire::Tag::object:
        case wire::Tag::map: return dict(cell);
        case wire::Tag::set: return set(cell);
        case wire::Tag::date: return date(std::bit_cast<double>(cell.bits));
        case wire::Tag::bytes:
        case wire::Tag::array: return array(cell);
        case wire::Tag::bigint: {
            const char* bytes = reinterpret_cast<const char*>(frame_.heap.data()) + cell.bits;
            Ref arguments(Py_BuildValue("(y#s)", bytes, static_cast<Py_ssize_t>(cell.count), "little"));
            Ref named(Py_BuildValue("{s:O}", "signed", Py_True));
            Ref method(PyObject_GetAttrString(reinterpret_cast<PyObject*>(&PyLong_Type), "from_bytes"));
            return arguments && named && method ? PyObject_Call(method.get(), arguments.get(), named.get()) : nullptr;
        }
        case wire::Tag::tuple: return tuple(cell);
        case wire::Tag::table: return table(cell);
        case wire::Tag::slice: return slice();
        case wire::Tag::pickle: return pickle(cell);
        case wire::Tag::reference:
            return memory_->objects().owns(cell) ? own_object(cell) : receive_reference(state_, memory_, cell);
        case wire::Tag::extent: break;
    }
    PyErr_SetString(state_.error, "the message holds a value of an unknown kind");
    return nullptr;
}

PyObject* Decoder::next_text() { return text(frame_.cells[at_++]); }

PyObject* Decoder::text(const wire::Cell& cell) {
    const char* utf8 = reinterpret_cast<const char*>(frame_.heap.data()) + cell.bits;
    return PyUnicode_DecodeUTF8(cell.count == 0 ? "" : utf8, cell.count, "surrogatepass");
}

PyObject* Decoder::list(const wire::Cell& cell) {
    Ref result(PyList_New(cell.count));
    for (std::uint32_t i = 0; result && i < cell.count; ++i) {
        PyObject* item = next();
        if (item == nullptr) return nullptr;
        PyList_SET_ITEM(result.get(), i, item);
    }
    return result.give();
}

PyObject* Decoder::tuple(const wire::Cell& cell) {
    Ref result(PyTuple_New(cell.count));
    for (std::uint32_t i = 0; result && i < cell.count; ++i) {
        PyObject* item = next();
        if (item == nullptr) return nullptr;
        PyTuple_SET_ITEM(result.get(), i, item);
    }
    return result.give();
}

PyObject* Decoder::slice() {
    const Ref start(next());
    const Ref stop(start ? next() : nullptr);
    const Ref step(stop ? next() : nullptr);
    return step ? PySlice_New(start.get(), stop.get(), step.get()) : nullptr;
}

/// Reading one runs code that its sender chose, so only a peer that asked for that does.
PyObject* Decoder::pickle(const wire::Cell& cell) {
    if (!memory_->pickles()) {
        PyErr_SetString(state_.error,
                        "a pickle has come and was not read, as this peer did not ask for pickles: isthmus.connect(…, "
                        "pickle=True) and isthmus.Host(…, pickle=True) do, which lets other peers run code here");
        return nullptr;
    }
    const Ref parts(PyList_New(0));
    for (std::uint32_t i = 0; parts && i < cell.count; ++i) {
        const Ref part(next());
        if (!part || PyList_Append(parts.get(), part.get()) < 0) return nullptr;
    }
    const Ref module(parts ? PyImport_ImportModule("isthmus.pickles") : nullptr);
    return module ? PyObject_CallMethod(module.get(), "load", "O", parts.get()) : nullptr;
}

PyObject* Decoder::own_object(const wire::Cell& cell) {
    Ref object = memory_->objects().find(wire::id_of(cell));
    if (!object) PyErr_SetString(state_.error, "the object was released: nobody can use it any more");
    return object.give();
}

PyObject* Decoder::next_origin() {
    const wire::Cell& cell = frame_.cells[at_++];
    return memory_->objects().owns(cell) ? own_object(cell) : new_reference(state_, memory_, cell);
}

PyObject* Decoder::dict(const wire::Cell& cell) {
    Ref result(PyDict_New());
    for (std::uint32_t i = 0; result && i < cell.count; ++i) {
        Ref key(next_hashable());
        Ref value(key ? next() : nullptr);
        if (!value || PyDict_SetItem(result.get(), key.get(), value.get()) < 0) return nullptr;
    }
    if (result && PyDict_GET_SIZE(result.get()) != cell.count) return confused("keys");
    return result.give();
}

PyObject* Decoder::set(const wire::Cell& cell) {
    Ref result(PySet_New(nullptr));
    for (std::uint32_t i = 0; result && i < cell.count; ++i) {
        Ref item(next_hashable());
        if (!item || PySet_Add(result.get(), item.get()) < 0) return nullptr;
    }
    if (result && PySet_GET_SIZE(result.get()) != cell.count) return confused("members");
    return result.give();
}

PyObject* Decoder::confused(const char* what) {
    PyErr_Format(PyExc_ValueError,
                 "a container has %s that Python takes for one, such as 1 and True: nothing is dropped silently", what);
    return nullptr;
}

/// As a key or a member of a set, where a list is a tuple and a set is frozen.
PyObject* Decoder::next_hashable() {
    const wire::Cell& cell = frame_.cells[at_];
    if (cell.tag != wire::Tag::list && cell.tag != wire::Tag::tuple && cell.tag != wire::Tag::set) return next();
    ++at_;
    if (cell.tag == wire::Tag::set) {
        Ref members(set(cell));
        return members ? PyFrozenSet_New(members.get()) : nullptr;
    }
    Ref result(PyTuple_New(cell.count));
    for (std::uint32_t i = 0; result && i < cell.count; ++i) {
        PyObject* item = next_hashable();
        if (item == nullptr) return nullptr;
        PyTuple_SET_ITEM(result.get(), i, item);
    }
    return result.give();
}

PyObject* Decoder::date(double milliseconds) {
    if (std::isnan(milliseconds)) {
        PyErr_SetString(PyExc_ValueError, "an invalid Date has no counterpart in Python");
        return nullptr;
    }
    Ref since(PyObject_CallFunction(state_.timedelta, "iidd", 0, 0, 0.0, milliseconds));
    Ref date(since ? PyNumber_Add(state_.epoch, since.get()) : nullptr);
    if (!date && PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Format(PyExc_OverflowError,
                     "a Date of %lld ms since 1970 is outside of the years 1 to 9999, which datetime can hold",
                     static_cast<long long>(milliseconds));
    }
    return date.give();
}

PyObject* Decoder::array(const wire::Cell& cell) {
    const wire::ArrayShape found = wire::array_shape(frame_.cells.subspan(at_ - 1));
    at_ += found.cells;
    const bool as_bytes = cell.tag == wire::Tag::bytes;
    const std::size_t dimensions = found.extents.size();
    if (dimensions > PyBUF_MAX_NDIM) {
        PyErr_Format(PyExc_ValueError, "an array of %zu dimensions has more than Python's limit of %d", dimensions,
                     PyBUF_MAX_NDIM);
        return nullptr;
    }
    Py_ssize_t shape[PyBUF_MAX_NDIM], strides[PyBUF_MAX_NDIM];
    for (std::size_t i = 0; i < dimensions; ++i) shape[i] = static_cast<Py_ssize_t>(found.extents[i].bits);
    for (std::size_t i = 0; i < found.strides.size(); ++i) strides[i] = static_cast<Py_ssize_t>(found.strides[i].bits);
    const Layout layout{as_bytes || cell.dtype == wire::DType::clamped8 ? wire::DType::uint8 : cell.dtype,
                        {shape, dimensions},
                        (cell.flags & wire::cell_fortran) != 0};
    bool overflow = false;
    const std::uint64_t size = wire::array_bytes(found.item_bytes, found.extents, overflow);
    const bool writable = (cell.flags & wire::cell_moved) != 0;
    const bool is_stepped = !found.strides.empty() && size > 0;
    const bool has_numpy = numpy(state_).is == Numpy::Is::here;
    // numpy is given the flat bytes and makes the shape itself.
    const bool flat = as_bytes || has_numpy || is_stepped || found.type != nullptr;
    const bool leased = (cell.flags & wire::cell_leased) != 0;
    const auto flat_size =
        static_cast<Py_ssize_t>(is_stepped ? frame_.payloads[static_cast<std::size_t>(cell.bits)].bytes : size);
    const Layout shown = flat ? Layout{wire::DType::uint8, {&flat_size, 1}, false} : layout;
    PyObject* backing;
    if (leased) {
        Handle handle = take(cell.bits);
        backing = new_lease(state_, memory_, handle, shown, writable);
    } else if (flat && !writable) {
        backing = PyBytes_FromStringAndSize(reinterpret_cast<const char*>(frame_.heap.data()) + (size ? cell.bits : 0),
                                            flat_size);
    } else {
        backing = new_copy(state_, size ? frame_.heap.subspan(cell.bits, size) : std::span<const std::byte>(), shown,
                           writable);
    }
    if (as_bytes) {
        Ref bytes(backing);
        return bytes ? PyMemoryView_FromObject(bytes.get()) : nullptr;
    }
    if (!is_stepped && found.type == nullptr) return new_array(state_, backing, layout);
    Ref bytes(backing);
    if (!bytes) return nullptr;
    if (!has_numpy) {
        PyErr_SetString(
            PyExc_TypeError,
            found.type != nullptr
                ? "an array whose elements are no plain numbers can only be received where numpy is installed"
                : "an array whose elements lie apart can only be received where numpy is installed");
        return nullptr;
    }
    Ref dtype(found.type != nullptr ? typed(*found.type)
                                    : Py_NewRef(numpy(state_).dtypes[static_cast<std::size_t>(layout.dtype)]));
    if (!dtype || !fits(dtype.get(), found.item_bytes)) return nullptr;
    return new_view(state_, bytes.get(), dtype.get(), layout,
                    is_stepped ? std::span<const Py_ssize_t>(strides, dimensions) : std::span<const Py_ssize_t>(),
                    static_cast<Py_ssize_t>(is_stepped ? found.start : 0));
}

/// numpy's dtype from what stands for it: a code, or the fields of records in JSON. numpy refuses objects over foreign bytes.
PyObject* Decoder::typed(const wire::Cell& cell) {
    Ref code(text(cell));
    Ref module(code ? PyImport_ImportModule("isthmus.protocols") : nullptr);
    return module ? PyObject_CallMethod(module.get(), "dtype_from", "O", code.get()) : nullptr;
}

bool Decoder::fits(PyObject* dtype, std::uint64_t item_bytes) {
    Ref size(PyObject_GetAttrString(dtype, "itemsize"));
    if (!size) return false;
    if (PyLong_AsUnsignedLongLong(size.get()) == item_bytes) return true;
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "the size of an array's elements is not that of their type");
    return false;
}

}  // namespace isthmus::python
