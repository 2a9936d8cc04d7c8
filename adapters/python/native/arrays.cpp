#include "arrays.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "elements.hpp"
#include "errors.hpp"

namespace isthmus::python {

namespace {

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

/// Copies one dimension and those inside it, item by item; `copy` knows an item's size.
template <class Copy>
std::byte* gather(const Py_buffer& view, int dimension, const std::byte* from, std::byte* to, const Copy& copy) {
    const Py_ssize_t length = view.shape[dimension];
    const Py_ssize_t stride = view.strides[dimension];
    if (dimension + 1 == view.ndim) {
        for (Py_ssize_t i = 0; i < length; ++i, from += stride, to += view.itemsize) copy(to, from);
        return to;
    }
    for (Py_ssize_t i = 0; i < length; ++i, from += stride) to = gather(view, dimension + 1, from, to, copy);
    return to;
}

template <std::size_t item>
void gather_items(const Py_buffer& view, const std::byte* from, std::byte* to) {
    gather(view, 0, from, to, [](std::byte* into, const std::byte* one) { std::memcpy(into, one, item); });
}

void gather_items(const Py_buffer& view, const std::byte* from, std::byte* to) {
    const auto item = static_cast<std::size_t>(view.itemsize);
    gather(view, 0, from, to, [item](std::byte* into, const std::byte* one) { std::memcpy(into, one, item); });
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

void copy_elements(const Py_buffer& view, std::uint32_t foreign, std::byte* to) {
    const auto size = static_cast<std::uint64_t>(view.len);
    const auto* from = static_cast<const std::byte*>(view.buf);
    if (PyBuffer_IsContiguous(&view, 'A')) {
        if (size > 0) std::memcpy(to, from, size);
    } else {
        switch (view.itemsize) {
            case 1: gather_items<1>(view, from, to); break;
            case 2: gather_items<2>(view, from, to); break;
            case 4: gather_items<4>(view, from, to); break;
            case 8: gather_items<8>(view, from, to); break;
            case 16: gather_items<16>(view, from, to); break;
            default: gather_items(view, from, to); break;
        }
    }
    switch (foreign) {
        case 2: swap_words<std::uint16_t>(to, size); break;
        case 4: swap_words<std::uint32_t>(to, size); break;
        case 8: swap_words<std::uint64_t>(to, size); break;
        default: break;
    }
}

}  // namespace

Arena::Allocation copy_into_bus(Memory& memory, const Py_buffer& view, std::uint32_t foreign) {
    const auto size = static_cast<std::uint64_t>(view.len);
    Arena::Allocation made = memory.allocate(size);
    if (made.status != Status::ok) return made;
    Memory::Hold hold{made.handle};
    // Held, the block stays this process's when the bus is left: whoever has it next is not written to.
    if (memory.retain(made.handle) != Status::ok || !memory.hold(hold)) return {Status::closed, {}};
    copy_elements(view, foreign, memory.at(made.handle));
    memory.drop(hold);
    memory.count_copied(size);
    made.handle.bytes = size;
    return made;
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

/// What an object shows of its elements, while this lives. GIL held.
class Shown {
public:
    Shown() = default;
    ~Shown() { PyBuffer_Release(&view); }
    Shown(const Shown&) = delete;
    Shown& operator=(const Shown&) = delete;

    /// nullopt: it shows them; else what is wrong, and "" when an exception is set.
    std::optional<std::string> look_at(PyObject* value) {
        if (PyObject_CheckBuffer(value) && PyObject_GetBuffer(value, &view, PyBUF_RECORDS_RO) == 0) {
            exporter = Ref::to(value);
            const auto found = elements_of_format(view.format, static_cast<std::uint64_t>(view.itemsize));
            if (found) return accept(*found);
            PyBuffer_Release(&view);
        }
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) return "";
        PyErr_Clear();
        return ask_protocols(value);
    }

    Py_buffer view{};
    Ref exporter;  // whose buffer the view is
    Elements elements;

private:
    std::optional<std::string> accept(const Elements& found) {
        elements = found;
        return std::nullopt;
    }

    std::optional<std::string> ask_protocols(PyObject* value) {
        const Ref module(PyImport_ImportModule("isthmus.protocols"));
        const Ref answer(module ? PyObject_CallMethod(module.get(), "elements_of", "O", value) : nullptr);
        if (!answer) return "";
        if (PyUnicode_Check(answer.get())) {
            const char* wrong = PyUnicode_AsUTF8(answer.get());
            return wrong != nullptr ? wrong : "";
        }
        const char* code = nullptr;
        Py_ssize_t code_bytes = 0;
        PyObject* shows = nullptr;
        if (!PyArg_ParseTuple(answer.get(), "s#O", &code, &code_bytes, &shows)) return "";
        exporter = Ref::to(shows);
        if (PyObject_GetBuffer(shows, &view, PyBUF_RECORDS_RO) < 0) return "";
        const auto found =
            elements_of_code({code, static_cast<std::size_t>(code_bytes)}, static_cast<std::uint64_t>(view.itemsize));
        return found ? accept(*found)
                     : "is an array of type '" + std::string(code) +
                           "', which can't travel: convert it to bool, int8 to "
                           "uint64, float16 to float64 or complex";
    }
};

}  // namespace

std::optional<std::string> encode_buffer(State& state, Memory& memory, Outgoing& out, PyObject* value, bool as_bytes,
                                         bool own, bool last) {
    const bool alone = last && is_alone(state, value);
    Shown shown;
    if (auto wrong = shown.look_at(value)) return wrong;
    const Py_buffer& view = shown.view;
    const Elements& elements = shown.elements;
    const bool is_named = elements.dtype == wire::DType::none;

    const auto size = static_cast<std::uint64_t>(view.len);
    const std::uint16_t fortran = is_fortran(view) ? wire::cell_fortran : std::uint16_t{0};
    std::uint64_t shape[PyBUF_MAX_NDIM];
    for (int i = 0; i < view.ndim; ++i) shape[i] = static_cast<std::uint64_t>(view.shape[i]);
    const auto dimensions = static_cast<std::size_t>(view.ndim);
    const std::uint16_t named = is_named ? wire::cell_typed : std::uint16_t{0};
    std::int64_t strides[PyBUF_MAX_NDIM];
    std::uint64_t start = 0;
    const auto put = [&](std::uint16_t flags, std::uint64_t where) {
        if (as_bytes && dimensions == 1 && elements.dtype == wire::DType::uint8)
            return out.values.bytes(flags, where, size);
        const bool is_strided = (flags & wire::cell_strided) != 0;
        out.values.array(elements.dtype, flags | named | (is_strided ? std::uint16_t{0} : fortran), where,
                         {shape, dimensions});
        if (is_strided) out.values.strides({strides, dimensions}, start);
        if (is_named) out.values.type(static_cast<std::uint64_t>(view.itemsize), elements.code);
    };
    const std::uint16_t moved = own ? wire::cell_moved : std::uint16_t{0};
    const auto send = [&](const Handle& handle, std::uint16_t flags) {
        put(flags | wire::cell_leased, out.payloads.size());
        out.payloads.push_back(handle);
    };
    const bool is_contiguous = PyBuffer_IsContiguous(&view, 'A') != 0;
    if (elements.foreign == 0 && size > 0 && is_contiguous) {
        const Handle found = memory.retain_found(view.buf, size);
        if (found.bytes != 0) {
            send(found, alone ? wire::cell_moved : std::uint16_t{0});
            return std::nullopt;
        }
    }
    if (elements.foreign == 0 && !is_contiguous) {
        const Handle found = find_apart(memory, view, strides, start);
        if (found.bytes != 0) {
            send(found, wire::cell_strided);
            return std::nullopt;
        }
    }
    if (size < inline_array_bytes) {
        const auto [room, where] = out.values.room(size);
        copy_elements(view, elements.foreign, room);
        put(moved, where);
        return std::nullopt;
    }
    if (size >= late_copy_bytes) {
        auto kept = std::make_unique<Py_buffer>();
        if (PyObject_GetBuffer(shown.exporter.get(), kept.get(), PyBUF_RECORDS_RO) < 0) return "";
        if (kept->len != view.len) {
            PyBuffer_Release(kept.get());
            return "changed while it was being sent";
        }
        out.copies.push_back({std::move(kept), out.payloads.size(), elements.foreign});
        send({0, size, no_block, 0}, moved);
        return std::nullopt;
    }
    const auto made = copy_into_bus(memory, view, elements.foreign);
    if (made.status != Status::ok) {
        raise(state, made.status, memory.shortage(made.status, size));
        return "";
    }
    send(made.handle, moved);
    return std::nullopt;
}

}  // namespace isthmus::python
