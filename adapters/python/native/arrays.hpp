// Elements in memory: the buffer protocol and numpy. numpy is optional and reached by calls alone, never by its C API.
#pragma once

#include <optional>
#include <string>

#include "lease.hpp"
#include "values.hpp"

namespace isthmus::python {

inline constexpr std::uint64_t inline_array_bytes = 2048;   // from here on, elements travel in the arena
inline constexpr std::uint64_t late_copy_bytes = 64 << 10;  // from here on, they are copied without the GIL

/// numpy if it can be imported, tried once. GIL held.
const Numpy& numpy(State& state);
/// numpy if the program has imported it. GIL held.
const Numpy* numpy_if_imported(State& state);

/// An ndarray, or a memoryview where there is no numpy. `backing` shows the bytes. Steals `backing`. GIL held.
PyObject* new_array(State& state, PyObject* backing, const Layout& layout);

/// An ndarray whose elements lie apart in `bytes`, or, without strides, one after the other. GIL held.
PyObject* new_view(State& state, PyObject* bytes, PyObject* dtype, const Layout& layout,
                   std::span<const Py_ssize_t> strides, Py_ssize_t start);

/// Appends the elements that an object shows (the buffer protocol, __array_interface__, DLPack). nullopt: done; else what is wrong with it, without its path,
/// and "" when an exception is set already. `own`: copied elements become the receiver's; `last`: so do those that lie in the
/// bus already, if nobody else looks at them, since the caller drops the object right after. GIL held.
std::optional<std::string> encode_buffer(State& state, Memory& memory, Outgoing& out, PyObject* value, bool as_bytes,
                                         bool own, bool last);

/// Copies elements into a block of the bus, in C order, or as they lie if they are contiguous, and turns the bytes of their words if
/// they are `foreign`. Another thread may leave the bus meanwhile. No GIL needed: the view keeps the memory.
Arena::Allocation copy_into_bus(Memory& memory, const Py_buffer& view, std::uint32_t foreign);

/// allocate(dtype, shape): an array over fresh memory of the bus that this thread serves, else of the newest.
PyObject* allocate(PyObject* module, PyObject* arguments);

}  // namespace isthmus::python
