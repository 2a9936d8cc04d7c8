#include "arrays.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "errors.hpp"

namespace isthmus::python {

namespace {

/// What a format of PEP 3118 means on this machine; none when it has no counterpart.
wire::DType dtype_of(const char* format, Py_ssize_t item_bytes, bool& swap) {
    using wire::DType;
    std::string_view letters = format == nullptr ? "B" : format;
    swap = false;
    if (!letters.empty() && std::string_view("@=<>!").find(letters.front()) != std::string_view::npos) {
        swap = letters.front() == '>' || letters.front() == '!';
        letters.remove_prefix(1);
    }
    DType dtype = DType::none;
    const auto integer = [item_bytes](DType one, DType two, DType four, DType eight) {
        switch (item_bytes) {
            case 1: return one;
            case 2: return two;
            case 4: return four;
            case 8: return eight;
            default: return DType::none;
        }
    };
    if (letters == "Zf") dtype = DType::complex64;
    if (letters == "Zd") dtype = DType::complex128;
    if (letters.size() == 1) {
        switch (letters.front()) {
            case '?': dtype = DType::boolean; break;
            case 'c': dtype = DType::uint8; break;
            case 'b':
            case 'h':
            case 'i':
            case 'l':
            case 'q':
            case 'n': dtype = integer(DType::int8, DType::int16, DType::int32, DType::int64); break;
            case 'B':
            case 'H':
            case 'I':
            case 'L':
            case 'Q':
            case 'N': dtype = integer(DType::uint8, DType::uint16, DType::uint32, DType::uint64); break;
            case 'e': dtype = DType::float16; break;
            case 'f': dtype = DType::float32; break;
            case 'd': dtype = DType::float64; break;
            default: break;
        }
    }
    if (dtype != DType::none && wire::item_bytes(dtype) != static_cast<std::uint64_t>(item_bytes)) return DType::none;
    if (item_bytes == 1) swap = false;
    return dtype;
}

/// What an object that has no usable buffer calls its elements.
std::string dtype_name(PyObject* value, const char* format) {
    Ref dtype(PyObject_GetAttrString(value, "dtype"));
    Ref text(dtype ? PyObject_Str(dtype.get()) : nullptr);
    const char* name = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
    std::string result = name != nullptr ? name : format != nullptr ? format : "unknown";
    PyErr_Clear();
    return result;
}

std::string unsupported(PyObject* value, const char* format) {
    return "is an array of dtype " + dtype_name(value, format) +
           ", which can't travel: convert it to bool, int8 to uint64, float16 to float64 or complex";
}

template <class Word>
Word reversed(Word word) {
    if constexpr (sizeof(Word) == 2)
        return __builtin_bswap16(word);
    else if constexpr (sizeof(Word) == 4)
        return __builtin_bswap32(word);
    else
        return __builtin_bswap64(word);
}

template <class Word>
void swap_words(std::byte* bytes, std::uint64_t size) {
    for (std::uint64_t at = 0; at < size; at += sizeof(Word)) {
        Word word;
        std::memcpy(&word, bytes + at, sizeof word);
        word = reversed(word);
        std::memcpy(bytes + at, &word, sizeof word);
    }
}

/// Copies one dimension and those inside it, item by item of a size known to the compiler.
template <std::size_t item>
std::byte* gather(const Py_buffer& view, int dimension, const std::byte* from, std::byte* to) {
    const Py_ssize_t length = view.shape[dimension];
    const Py_ssize_t stride = view.strides[dimension];
    if (dimension + 1 == view.ndim) {
        for (Py_ssize_t i = 0; i < length; ++i, from += stride, to += item) std::memcpy(to, from, item);
        return to;
    }
    for (Py_ssize_t i = 0; i < length; ++i, from += stride) to = gather<item>(view, dimension + 1, from, to);
    return to;
}

/// Whether nobody refers to an array but the caller, nor to those it is a view of, down to the one that has the memory.
bool is_alone(State& state, PyObject* array) {
    const Numpy* np = numpy_if_imported(state);
    if (np == nullptr || Py_REFCNT(array) != 1) return false;
    Ref each = Ref::to(array);
    for (;;) {
        if (Py_TYPE(each.get()) != reinterpret_cast<PyTypeObject*>(np->ndarray)) return false;
        Ref base(PyObject_GetAttrString(each.get(), "base"));
        if (!base || base.get() == Py_None) return static_cast<bool>(base);
        constexpr Py_ssize_t ours_and_its_view = 2;
        if (Py_REFCNT(base.get()) != ours_and_its_view) return false;
        each = std::move(base);
    }
}

bool is_fortran(const Py_buffer& view) {
    return view.ndim > 1 && !PyBuffer_IsContiguous(&view, 'C') && PyBuffer_IsContiguous(&view, 'F');
}

}  // namespace

void copy_elements(const Py_buffer& view, bool swap, std::byte* to) {
    const auto size = static_cast<std::uint64_t>(view.len);
    const auto* from = static_cast<const std::byte*>(view.buf);
    if (PyBuffer_IsContiguous(&view, 'A')) {
        if (size > 0) std::memcpy(to, from, size);
    } else {
        switch (view.itemsize) {
            case 1: gather<1>(view, 0, from, to); break;
            case 2: gather<2>(view, 0, from, to); break;
            case 4: gather<4>(view, 0, from, to); break;
            case 8: gather<8>(view, 0, from, to); break;
            default: gather<16>(view, 0, from, to); break;
        }
    }
    if (!swap) return;
    const bool complex = view.format != nullptr && std::strchr(view.format, 'Z') != nullptr;
    switch (complex ? view.itemsize / 2 : view.itemsize) {
        case 2: swap_words<std::uint16_t>(to, size); break;
        case 4: swap_words<std::uint32_t>(to, size); break;
        default: swap_words<std::uint64_t>(to, size); break;
    }
}

namespace {

/// Where the elements of an array that has gaps, or is turned, lie in the bus; bytes 0 when they do not, or when JavaScript could not
/// express it: one dimension is a typed array there, and its strides count elements.
Handle find_apart(Memory& memory, const Py_buffer& view, std::int64_t* strides, std::uint64_t& start) {
    if (view.ndim < 2 || view.strides == nullptr || view.len == 0) return {};
    Py_ssize_t first = 0, last = 0;
    for (int i = 0; i < view.ndim; ++i) {
        if (view.strides[i] % view.itemsize != 0) return {};
        strides[i] = view.strides[i];
        const Py_ssize_t reach = (view.shape[i] - 1) * view.strides[i];
        (reach < 0 ? first : last) += reach;
    }
    start = static_cast<std::uint64_t>(-first);
    return memory.retain_found(static_cast<const std::byte*>(view.buf) + first,
                               static_cast<std::uint64_t>(last - first + view.itemsize));
}

/// An array of a numpy type that has no dtype here: its bytes, with the type's code. nullopt: done; "" with an exception set.
std::optional<std::string> encode_typed(State& state, Memory& memory, Outgoing& out, PyObject* value) {
    Ref module(PyImport_ImportModule("isthmus.arrays"));
    Ref pair(module ? PyObject_CallMethod(module.get(), "code_of", "O", value) : nullptr);
    if (!pair) return "";
    if (pair.get() == Py_None) return unsupported(value, nullptr);
    const char* code = nullptr;
    Py_ssize_t code_bytes = 0;
    PyObject* bytes = nullptr;
    if (!PyArg_ParseTuple(pair.get(), "s#O", &code, &code_bytes, &bytes)) return "";
    Py_buffer view;
    if (PyObject_GetBuffer(bytes, &view, PyBUF_ND) < 0) return "";
    struct Release {
        Py_buffer* view;
        ~Release() { PyBuffer_Release(view); }
    } release{&view};
    Ref shape(PyObject_GetAttrString(value, "shape")), item(PyObject_GetAttrString(value, "itemsize"));
    if (!shape || !item) return "";
    std::uint64_t extents[PyBUF_MAX_NDIM];
    const Py_ssize_t dimensions = PyTuple_GET_SIZE(shape.get());
    for (Py_ssize_t i = 0; i < dimensions; ++i)
        extents[i] = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(shape.get(), i));
    const auto size = static_cast<std::uint64_t>(view.len);
    const auto put = [&](std::uint16_t flags, std::uint64_t where) {
        out.values.array(wire::DType::none, flags | wire::cell_typed, where,
                         {extents, static_cast<std::size_t>(dimensions)});
        out.values.type(PyLong_AsUnsignedLongLong(item.get()), {code, static_cast<std::size_t>(code_bytes)});
    };
    if (size < inline_array_bytes) {
        const auto [room, where] = out.values.room(size);
        if (size > 0) std::memcpy(room, view.buf, size);
        put(0, where);
        return std::nullopt;
    }
    Handle handle = memory.retain_found(view.buf, size);
    if (handle.bytes == 0) {
        const auto made = memory.allocate(size);
        if (made.status != Status::ok) {
            raise(state, made.status, memory.shortage(made.status, size));
            return "";
        }
        handle = {made.handle.offset, size, made.handle.block, made.handle.generation};
        std::memcpy(memory.at(handle), view.buf, size);
        memory.count_copied(size);
    }
    put(wire::cell_leased, out.payloads.size());
    out.payloads.push_back(handle);
    return std::nullopt;
}

bool is_typed(State& state, PyObject* value) {
    const Numpy* np = numpy_if_imported(state);
    if (np == nullptr || !PyObject_TypeCheck(value, reinterpret_cast<PyTypeObject*>(np->ndarray))) return false;
    Ref dtype(PyObject_GetAttrString(value, "dtype"));
    Ref kind(dtype ? PyObject_GetAttrString(dtype.get(), "kind") : nullptr);
    const char* letter = kind ? PyUnicode_AsUTF8(kind.get()) : nullptr;
    if (letter == nullptr) PyErr_Clear();
    return letter != nullptr && std::strchr("mMSUV", letter[0]) != nullptr;
}

}  // namespace

std::optional<std::string> encode_buffer(State& state, Memory& memory, Outgoing& out, PyObject* value, bool as_bytes,
                                         bool own, bool last) {
    const bool alone = last && is_alone(state, value);
    Py_buffer view;
    if (PyObject_GetBuffer(value, &view, PyBUF_RECORDS_RO) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) return "";
        PyErr_Clear();
        return is_typed(state, value) ? encode_typed(state, memory, out, value) : unsupported(value, nullptr);
    }
    struct Release {
        Py_buffer* view;
        ~Release() { PyBuffer_Release(view); }
    } release{&view};
    bool swap = false;
    const wire::DType dtype = dtype_of(view.format, view.itemsize, swap);
    if (dtype == wire::DType::none)
        return is_typed(state, value) ? encode_typed(state, memory, out, value) : unsupported(value, view.format);

    const auto size = static_cast<std::uint64_t>(view.len);
    const std::uint16_t fortran = is_fortran(view) ? wire::cell_fortran : std::uint16_t{0};
    std::uint64_t shape[PyBUF_MAX_NDIM];
    for (int i = 0; i < view.ndim; ++i) shape[i] = static_cast<std::uint64_t>(view.shape[i]);
    const auto put = [&](std::uint16_t flags, std::uint64_t where) {
        if (as_bytes && view.ndim == 1 && dtype == wire::DType::uint8) {
            out.values.bytes(flags, where, size);
        } else {
            out.values.array(dtype, flags | fortran, where, {shape, static_cast<std::size_t>(view.ndim)});
        }
    };
    const std::uint16_t moved = own ? wire::cell_moved : std::uint16_t{0};
    const auto send = [&](const Handle& handle, std::uint16_t flags) {
        put(flags | wire::cell_leased, out.payloads.size());
        out.payloads.push_back(handle);
    };
    if (!swap && size > 0 && PyBuffer_IsContiguous(&view, 'A')) {
        const Handle found = memory.retain_found(view.buf, size);
        if (found.bytes != 0) {
            send(found, alone ? wire::cell_moved : std::uint16_t{0});
            return std::nullopt;
        }
    }
    if (!swap && !PyBuffer_IsContiguous(&view, 'A')) {
        std::int64_t strides[PyBUF_MAX_NDIM];
        std::uint64_t start = 0;
        const Handle found = find_apart(memory, view, strides, start);
        if (found.bytes != 0) {
            send(found, wire::cell_strided);
            out.values.strides({strides, static_cast<std::size_t>(view.ndim)}, start);
            return std::nullopt;
        }
    }
    if (size < inline_array_bytes) {
        const auto [room, where] = out.values.room(size);
        copy_elements(view, swap, room);
        put(moved, where);
        return std::nullopt;
    }
    if (size >= late_copy_bytes) {
        auto kept = std::make_unique<Py_buffer>();
        if (PyObject_GetBuffer(value, kept.get(), PyBUF_RECORDS_RO) < 0) return "";
        if (kept->len != view.len) {
            PyBuffer_Release(kept.get());
            return "changed while it was being sent";
        }
        out.copies.push_back({std::move(kept), out.payloads.size(), swap});
        send({0, size, no_block, 0}, moved);
        return std::nullopt;
    }
    const auto made = memory.allocate(size);
    if (made.status != Status::ok) {
        raise(state, made.status, memory.shortage(made.status, size));
        return "";
    }
    copy_elements(view, swap, memory.at(made.handle));
    memory.count_copied(size);
    send({made.handle.offset, size, made.handle.block, made.handle.generation}, moved);
    return std::nullopt;
}

}  // namespace isthmus::python
