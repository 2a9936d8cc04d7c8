// The module isthmus._isthmus: its state and its birth. All with the GIL held.
#include <new>

#include "arrays.hpp"
#include "arrow.hpp"
#include "broker.hpp"
#include "errors.hpp"
#include "exports.hpp"
#include "lease.hpp"
#include "lifeline.hpp"
#include "numpy_memory.hpp"
#include "parcel.hpp"
#include "peer.hpp"
#include "reference.hpp"
#include "request.hpp"
#include "view.hpp"

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

namespace {

extern PyModuleDef definition;

bool fetch(const char* module_name, std::initializer_list<std::pair<const char*, PyObject**>> wanted) {
    Ref module(PyImport_ImportModule(module_name));
    for (const auto& [name, to] : wanted) {
        if (!module || (*to = PyObject_GetAttrString(module.get(), name)) == nullptr) return false;
    }
    return true;
}

bool fetch_what_is_used(State& state) {
    if (!fetch("isthmus.errors", {{"Error", &state.error},
                                  {"ConnectError", &state.connect_error},
                                  {"EncodeError", &state.encode_error},
                                  {"NotExported", &state.not_exported},
                                  {"TimeoutError", &state.timeout_error},
                                  {"PeerLost", &state.peer_lost},
                                  {"BusFull", &state.bus_full},
                                  {"PythonError", &state.python_error},
                                  {"JsError", &state.js_error},
                                  {"Cancelled", &state.cancelled},
                                  {"remote_error", &state.remote_error}}) ||
        !fetch("traceback", {{"format_exception", &state.format_exception}}) ||
        !fetch("datetime", {{"datetime", &state.datetime},
                            {"date", &state.date},
                            {"time", &state.time},
                            {"timedelta", &state.timedelta}})) {
        return false;
    }
    Ref logging(PyImport_ImportModule("logging"));
    state.logger = logging ? PyObject_CallMethod(logging.get(), "getLogger", "s", "isthmus") : nullptr;
    PyObject* timezone = nullptr;
    if (state.logger == nullptr || !fetch("datetime", {{"timezone", &timezone}})) return false;
    Ref held(timezone);
    Ref utc(PyObject_GetAttrString(timezone, "utc"));
    state.epoch = utc ? PyObject_CallFunction(state.datetime, "iiiiiiiO", 1970, 1, 1, 0, 0, 0, 0, utc.get()) : nullptr;
    state.kinds = PyDict_New();
    state.reference_name = PyUnicode_InternFromString("__isthmus_reference__");
    state.about_name = PyUnicode_InternFromString("about");
    state.calling = PyContextVar_New("isthmus_calling", nullptr);
    return state.epoch != nullptr && state.kinds != nullptr && state.reference_name != nullptr &&
           state.about_name != nullptr && state.calling != nullptr;
}

bool add_type(PyObject* module, PyType_Spec& spec, PyTypeObject*& to) {
    to = reinterpret_cast<PyTypeObject*>(PyType_FromModuleAndSpec(module, &spec, nullptr));
    return to != nullptr && PyModule_AddType(module, to) == 0;
}

bool add_dtypes(PyObject* module) {
    Ref dtypes(PyDict_New());
    const auto add = [&dtypes](const char* name, wire::DType dtype) {
        Ref number(PyLong_FromLong(static_cast<int>(dtype)));
        return dtypes && number && PyDict_SetItemString(dtypes.get(), name, number.get()) == 0;
    };
    using wire::DType;
    return add("bool", DType::boolean) && add("int8", DType::int8) && add("uint8", DType::uint8) &&
           add("int16", DType::int16) && add("uint16", DType::uint16) && add("int32", DType::int32) &&
           add("uint32", DType::uint32) && add("int64", DType::int64) && add("uint64", DType::uint64) &&
           add("float16", DType::float16) && add("float32", DType::float32) && add("float64", DType::float64) &&
           add("complex64", DType::complex64) && add("complex128", DType::complex128) &&
           PyModule_AddObjectRef(module, "dtypes", dtypes.get()) == 0;
}

bool add_constants(PyObject* module) {
    const auto add = [module](const char* name, auto value) {
        return PyModule_AddIntConstant(module, name, static_cast<long>(value)) == 0;
    };
    return add("CALLABLE", wire::reference_callable) && add("ITERABLE", wire::reference_iterable) &&
           add("ASYNC", wire::reference_async) && add("EXCEPTION", wire::reference_exception) &&
           add("STREAMS", wire::frame_streams) && add("KEEPS", wire::frame_keeps) && add("DETACHED", detached) &&
           add("RESULT", What::result) && add("RAISED", What::exception) && add("ITEMS", What::items) &&
           add("END", What::end);
}

PyObject* socket_path(PyObject* module, PyObject* name) {
    const char* bus = PyUnicode_AsUTF8(name);
    if (bus == nullptr) return nullptr;
    return guarded(state_of(module), static_cast<PyObject*>(nullptr),
                   [&] { return PyUnicode_FromString(rendezvous::socket_path(bus).c_str()); });
}

PyObject* bus_names(PyObject* module, PyObject*) {
    return guarded(state_of(module), static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        Ref names(PyList_New(0));
        for (const std::string& name : rendezvous::bus_names()) {
            const Ref text(PyUnicode_DecodeFSDefault(name.c_str()));
            if (!names || !text || PyList_Append(names.get(), text.get()) < 0) return nullptr;
        }
        return names.give();
    });
}

}  // namespace

State& state_of(PyObject* module) { return *static_cast<State*>(PyModule_GetState(module)); }
State& state_of(PyTypeObject* type) { return *static_cast<State*>(PyType_GetModuleState(type)); }

// --- module state and exec -------------------------------------------------------------------------------------

namespace {

int exec(PyObject* module) {
    State& state = *new (PyModule_GetState(module)) State;
    const bool done = fetch_what_is_used(state) && add_type(module, broker_spec, state.broker) &&
                      add_type(module, bus_spec, state.bus) && add_type(module, exports_spec, state.exports) &&
                      add_type(module, lease_spec, state.lease) && add_type(module, reference_spec, state.reference) &&
                      add_type(module, call_spec, state.call) && add_type(module, stream_spec, state.stream) &&
                      add_type(module, view_spec, state.view) && add_type(module, table_spec, state.table) &&
                      add_type(module, parcel_spec, state.parcel) &&
                      PyModule_AddObjectRef(module, "calling", state.calling) == 0 && add_constants(module) &&
                      add_dtypes(module);
    return done ? 0 : -1;
}

int traverse(PyObject* module, visitproc visit, void* arg) {
    return state_of(module).each([&](PyObject* object) { return object != nullptr ? visit(object, arg) : 0; });
}

int clear(PyObject* module) {
    return state_of(module).each([](PyObject*& object) {
        Py_XDECREF(std::exchange(object, nullptr));
        return 0;
    });
}

void free_state(void* module) {
    clear(static_cast<PyObject*>(module));
    state_of(static_cast<PyObject*>(module)).~State();
}

// --- slot tables -------------------------------------------------------------------------------------------------

PyMethodDef methods[] = {
    {"allocate", allocate, METH_VARARGS,
     "allocate(dtype, shape)\n--\n\nAn array in the memory of the bus that this thread serves, else of the newest."},
    {"current", current, METH_NOARGS,
     "current()\n--\n\nThe Call that this thread or coroutine performs; None when it performs none."},
    {"socket_path", socket_path, METH_O, "socket_path(name)\n--\n\nWhere the socket of a bus lies."},
    {"bus_names", bus_names, METH_NOARGS,
     "bus_names()\n--\n\nThe names of the buses whose sockets are there, served or not."},
    {"use_numpy_memory", use_numpy_memory, METH_O,
     "use_numpy_memory(on)\n--\n\nLets numpy allocate in the bus in this context; returns what was in use."},
    {"restore_numpy_memory", restore_numpy_memory, METH_O,
     "restore_numpy_memory(handler)\n--\n\nUndoes use_numpy_memory."},
    {"view", new_view_of_memory, METH_VARARGS,
     "view(owner, where, offset, item_bytes, shape, strides)\n--\n\nA View of elements at an address, or in a buffer."},
    {"tensor", new_view_of_tensor, METH_O,
     "tensor(capsule)\n--\n\nThe code and a View of the elements of a tensor of DLPack."},
    {"watch_parent", watch_parent, METH_O,
     "watch_parent(fd)\n--\n\nEnds this process once fd hangs up: SIGTERM first, _exit 300 ms later."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef_Slot slots[] = {
    {Py_mod_exec, slot(exec)},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_isthmus",
                          "The native half of isthmus.",
                          sizeof(State),
                          methods,
                          slots,
                          traverse,
                          clear,
                          free_state};

}  // namespace

}  // namespace isthmus::python

PyMODINIT_FUNC PyInit__isthmus() { return PyModuleDef_Init(&isthmus::python::definition); }
