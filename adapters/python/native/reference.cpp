#include "reference.hpp"

#include <new>

#include "errors.hpp"
#include "peer.hpp"

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

namespace {

struct Foreign {
    std::shared_ptr<Memory> memory;
    PyObject* bus;  // owned
    wire::Cell cell;
    std::atomic<std::uint64_t> uses;  // twice their number; the lowest bit: it was released

    Objects::Key key() const { return {cell.bits, cell.count}; }
    /// One use more; false when it was released.
    bool add_use() {
        std::uint64_t now = uses.load(std::memory_order_relaxed);
        do {
            if (now & 1) return false;
        } while (!uses.compare_exchange_weak(now, now + 2, std::memory_order_relaxed));
        return true;
    }
};

Foreign& foreign_of(PyObject* self) { return unbox<Foreign>(self); }

/// GIL held.
void give_back(PyObject* self) {
    Foreign& foreign = foreign_of(self);
    const std::uint64_t uses = foreign.uses.fetch_or(1, std::memory_order_relaxed);
    if (uses & 1 || !foreign.memory || !foreign.memory->is_ours()) return;
    Objects& objects = foreign.memory->objects();
    objects.forget(foreign.key(), self);
    if (objects.give_back(foreign.key(), static_cast<std::uint32_t>(uses >> 1)) &&
        Memory::of_this_thread() != foreign.memory) {
        peer_of(foreign.bus).wake();
    }
}

}  // namespace

PyObject* new_reference(State& state, const std::shared_ptr<Memory>& memory, const wire::Cell& cell) {
    PyObject* self = state.reference->tp_alloc(state.reference, 0);
    if (self == nullptr) {
        (void)memory->objects().give_back({cell.bits, cell.count}, 1);
        return nullptr;
    }
    new (&foreign_of(self)) Foreign{memory, Py_NewRef(memory->objects().bus), cell, 2};
    return self;
}

PyObject* receive_reference(State& state, const std::shared_ptr<Memory>& memory, const wire::Cell& cell) {
    Objects& objects = memory->objects();
    const Objects::Key key{cell.bits, cell.count};
    if (Ref proxy = objects.living(key)) {
        const Ref reference = reference_in(state, proxy.get());
        if (reference && foreign_of(reference.get()).add_use()) return proxy.give();
    }
    Ref reference(new_reference(state, memory, cell));
    const Ref factory = peer_of(objects.bus).hooks.get(Hook::reference_factory);
    if (!reference || !factory) return reference.give();
    Ref proxy(PyObject_CallOneArg(factory.get(), reference.get()));
    Ref weak(proxy ? PyWeakref_NewRef(proxy.get(), nullptr) : nullptr);
    const bool is_known = static_cast<bool>(weak);
    if (is_known) objects.remember(key, std::move(weak), reference.get());
    return is_known || !proxy || PyErr_Occurred() == nullptr ? proxy.give() : nullptr;
}

Ref reference_in(State& state, PyObject* object) {
    if (Py_IS_TYPE(object, state.reference)) return Ref::to(object);
    Ref inner(PyObject_GenericGetAttr(object, state.reference_name));
    if (!inner) PyErr_Clear();
    return inner && Py_IS_TYPE(inner.get(), state.reference) ? std::move(inner) : Ref();
}

bool cell_of(PyObject* reference, wire::Cell& cell) {
    cell = foreign_of(reference).cell;
    return (foreign_of(reference).uses.load(std::memory_order_relaxed) & 1) == 0;
}

bool is_from(PyObject* reference, const Memory& memory) { return foreign_of(reference).memory.get() == &memory; }

// --- type functions: all with the GIL held, on any thread --------------------------------------------------------

namespace {

int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(foreign_of(self).bus);
    return 0;
}

void dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    give_back(self);
    Foreign& foreign = foreign_of(self);
    Py_XDECREF(foreign.bus);
    foreign.~Foreign();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject* release(PyObject* self, PyObject*) {
    give_back(self);
    Py_RETURN_NONE;
}

PyObject* get_slot(PyObject* self, void*) { return PyLong_FromUnsignedLong(wire::owner_of(foreign_of(self).cell)); }
PyObject* get_generation(PyObject* self, void*) { return PyLong_FromUnsignedLong(foreign_of(self).cell.count); }
PyObject* get_id(PyObject* self, void*) { return PyLong_FromUnsignedLongLong(wire::id_of(foreign_of(self).cell)); }
PyObject* get_flags(PyObject* self, void*) { return PyLong_FromLong(foreign_of(self).cell.flags); }
PyObject* get_bus(PyObject* self, void*) { return Py_NewRef(foreign_of(self).bus); }
PyObject* get_released(PyObject* self, void*) {
    return PyBool_FromLong(static_cast<long>(foreign_of(self).uses.load(std::memory_order_relaxed) & 1));
}
PyObject* get_language(PyObject* self, void*) {
    const Foreign& foreign = foreign_of(self);
    const std::uint32_t kind = foreign.memory->objects().peer(wire::owner_of(foreign.cell)).kind;
    return PyUnicode_FromString(kind == static_cast<std::uint32_t>(PeerKind::python) ? "python" : "javascript");
}

// --- slot tables ---------------------------------------------------------------------------------------------

PyMethodDef methods[] = {
    {"release", release, METH_NOARGS, "release()\n--\n\nGives the object back to its owner now."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"slot", get_slot, nullptr, "The owner's place on the bus.", nullptr},
    {"generation", get_generation, nullptr, "Which of those who had the place.", nullptr},
    {"id", get_id, nullptr, "The owner's number for it.", nullptr},
    {"flags", get_flags, nullptr, "CALLABLE, ITERABLE, ASYNC, EXCEPTION.", nullptr},
    {"bus", get_bus, nullptr, "The Bus over which it came.", nullptr},
    {"language", get_language, nullptr, "The owner's: javascript or python.", nullptr},
    {"released", get_released, nullptr, "Whether it was given back.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("An object of another peer, which lives at least as long as this.")},
    {Py_tp_dealloc, slot(dealloc)},
    {Py_tp_traverse, slot(traverse)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, nullptr},
};

}  // namespace

PyType_Spec reference_spec = {
    "isthmus._isthmus.Reference", sizeof(Boxed<Foreign>), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace isthmus::python
