#include "calling.hpp"

#include <new>

#include "dispatcher.hpp"

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

CallInfo& call_info(PyObject* call) { return unbox<CallInfo>(call); }

PyObject* new_call_info(State& state, const std::shared_ptr<Memory>& memory, const std::string& name,
                        std::uint32_t slot, std::uint64_t id, const wire::Draft& frame) {
    PyObject* self = state.call->tp_alloc(state.call, 0);
    if (self == nullptr) return nullptr;
    CallInfo& info = *new (&call_info(self)) CallInfo;
    info.memory = memory;
    info.name = name;
    info.slot = slot;
    info.credit = (frame.flags & wire::frame_streams) != 0 ? frame.number : 0;
    info.deadline = frame.deadline;
    info.activity = frame.activity != 0 ? frame.activity : wire::activity_of(slot, id);
    state.defers.store(true, std::memory_order_relaxed);
    return self;
}

namespace {

/// The Call in the context variable; empty when there is none. GIL held.
Ref from_context(State& state) {
    if (!state.defers.load(std::memory_order_relaxed)) return {};
    PyObject* found = nullptr;
    if (PyContextVar_Get(state.calling, nullptr, &found) < 0) PyErr_Clear();
    Ref call(found);
    return call && Py_IS_TYPE(call.get(), state.call) ? std::move(call) : Ref();
}

}  // namespace

Calling calling_here(State& state, const Memory& memory) {
    if (const Dispatcher* here = Dispatcher::of_this_thread(); here != nullptr && here->performs()) {
        const Calling calling = here->calling();
        return {&here->memory() == &memory ? calling.activity : 0, calling.deadline};
    }
    const Ref call = from_context(state);
    if (!call) return {};
    const CallInfo& info = call_info(call.get());
    return {info.memory.get() == &memory ? info.activity : 0, info.deadline};
}

PyObject* current(PyObject* module, PyObject*) {
    State& state = state_of(module);
    if (Dispatcher* here = Dispatcher::of_this_thread(); here != nullptr && here->performs()) return here->info();
    Ref call = from_context(state);
    return call ? call.give() : Py_NewRef(Py_None);
}

// --- type functions: all with the GIL held, on any thread --------------------------------------------------------

namespace {

void dealloc(PyObject* self) {
    call_info(self).~CallInfo();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject* get_caller(PyObject* self, void*) {
    const CallInfo& info = call_info(self);
    const auto& label = info.memory->objects().peer(info.slot).label;
    return PyUnicode_DecodeUTF8(label, static_cast<Py_ssize_t>(::strnlen(label, sizeof label)), "replace");
}
PyObject* get_slot(PyObject* self, void*) { return PyLong_FromUnsignedLong(call_info(self).slot); }
PyObject* get_name(PyObject* self, void*) { return PyUnicode_FromString(call_info(self).name.c_str()); }
PyObject* get_activity(PyObject* self, void*) { return PyLong_FromUnsignedLongLong(call_info(self).activity); }
PyObject* get_credit(PyObject* self, void*) { return PyLong_FromUnsignedLong(call_info(self).credit); }
PyObject* get_deadline(PyObject* self, void*) {
    const std::uint64_t deadline = call_info(self).deadline;
    return deadline == 0 ? Py_NewRef(Py_None) : PyFloat_FromDouble(static_cast<double>(deadline) * 1e-9);
}
/// On the dispatcher's thread, which hears of it only when it looks, this looks.
PyObject* get_cancelled(PyObject* self, void*) {
    CallInfo& info = call_info(self);
    Dispatcher* here = Dispatcher::of_this_thread();
    if (here != nullptr && &here->memory() == info.memory.get() && !info.cancelled.load(std::memory_order_relaxed))
        here->look();
    return PyBool_FromLong(info.cancelled.load(std::memory_order_relaxed));
}

// --- slot tables ---------------------------------------------------------------------------------------------

PyGetSetDef attributes[] = {
    {"caller", get_caller, nullptr, "What the caller's program is called.", nullptr},
    {"slot", get_slot, nullptr, "The caller's place on the bus.", nullptr},
    {"name", get_name, nullptr, "The name of the export; empty when an object is called.", nullptr},
    {"deadline", get_deadline, nullptr, "When its time runs out, as time.monotonic() counts; None: never.", nullptr},
    {"cancelled", get_cancelled, nullptr, "Whether the caller waits for it no longer.", nullptr},
    {"activity", get_activity, nullptr, "What the calls that it leads to carry on.", nullptr},
    {"credit", get_credit, nullptr, "Of a stream: how many items the caller has room for at first; else 0.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc,
     const_cast<char*>("A call that is being performed: who made it, its deadline, whether it was cancelled.")},
    {Py_tp_dealloc, slot(dealloc)},
    {Py_tp_getset, attributes},
    {0, nullptr},
};

}  // namespace

PyType_Spec call_spec = {"isthmus.Call", sizeof(Boxed<CallInfo>), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace isthmus::python
