#include <algorithm>
#include <mutex>
#include <vector>

#include "arrays.hpp"
#include "errors.hpp"

namespace isthmus::python {

// GIL held, given back while the kernel finds pages. Any thread.
PyObject* allocate(PyObject* module, PyObject* arguments) {
    State& state = state_of(module);
    int dtype;
    PyObject* lengths;
    if (!PyArg_ParseTuple(arguments, "iO!", &dtype, &PyTuple_Type, &lengths)) return nullptr;
    std::vector<Py_ssize_t> shape;
    std::vector<wire::Cell> extents;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(lengths); ++i) {
        const Py_ssize_t length = PyLong_AsSsize_t(PyTuple_GET_ITEM(lengths, i));
        if (length == -1 && PyErr_Occurred()) return nullptr;
        if (length < 0 || i == PyBUF_MAX_NDIM) {
            PyErr_SetString(PyExc_ValueError, "a shape has at most 64 lengths, each from 0 on");
            return nullptr;
        }
        shape.push_back(length);
        extents.push_back({wire::Tag::extent, wire::DType::none, 0, 0, static_cast<std::uint64_t>(length)});
    }
    const auto type = static_cast<wire::DType>(dtype);
    bool overflow = wire::item_bytes(type) == 0;
    const std::uint64_t bytes = overflow ? 0 : wire::array_bytes(type, extents, overflow);
    if (overflow) {
        PyErr_SetString(PyExc_ValueError, "the shape and the dtype make no array");
        return nullptr;
    }
    return guarded(state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        std::shared_ptr<Memory> memory = Memory::of_this_thread();
        if (!memory || !memory->is_ours()) {
            memory = nullptr;
            std::lock_guard lock(state.mutex);
            for (const auto& each : state.memories) {
                if (each->is_ours()) memory = each;
            }
        }
        if (!memory) {
            raise(state, Status::closed,
                  "this process is on no bus, so there is no memory to allocate from: serve or connect first");
            return nullptr;
        }
        Arena::Allocation made{Status::closed, {}};
        {
            const WithoutGil without;
            made = memory->allocate(std::max<std::uint64_t>(bytes, 1));
        }
        if (made.status != Status::ok) {
            raise(state, made.status, memory->shortage(made.status, bytes));
            return nullptr;
        }
        const bool has_numpy = numpy(state).is == Numpy::Is::here;
        const auto flat = static_cast<Py_ssize_t>(bytes);
        const Layout wanted{type, shape, false};
        const Layout shown = has_numpy ? Layout{wire::DType::uint8, {&flat, 1}, false} : wanted;
        return new_array(state, new_lease(state, memory, made.handle, shown, true), wanted);
    });
}

}  // namespace isthmus::python
