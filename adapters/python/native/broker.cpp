#include "broker.hpp"

#include <memory>
#include <mutex>
#include <new>
#include <string>

#include "errors.hpp"
#include "lifeline.hpp"

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

namespace {

struct BrokerBox {
    std::mutex closing;                          // whoever closes what another is closing waits until it is
    std::unique_ptr<rendezvous::Broker> broker;  // guarded by it; null once closed
    std::string path;
    std::uint64_t forks = fork_count();
};

// --- type functions: the GIL held on entry, given back while the kernel works ---------------------------------------

PyObject* make(PyTypeObject* type, PyObject* arguments, PyObject*) {
    State& state = state_of(type);
    const char* name;
    unsigned long long memory, ring, quota;
    int open = 0;
    if (!PyArg_ParseTuple(arguments, "sKKK|p", &name, &memory, &ring, &quota, &open)) return nullptr;
    std::unique_ptr<rendezvous::Broker> broker;
    try {
        const WithoutGil without;
        rendezvous::BrokerOptions options{.bus = name};
        if (memory != 0) options.arena_bytes = memory;
        if (ring != 0) options.ring_bytes = ring;
        options.quota_bytes = quota;
        options.open = open != 0;
        broker = std::make_unique<rendezvous::Broker>(options);
    } catch (const Error& error) {
        raise_connect_error(state, error, name);
        return nullptr;
    } catch (const std::exception& error) {
        raise_connect_error(state, Error(Status::no_memory, error.what()), name);
        return nullptr;
    }
    PyObject* self = type->tp_alloc(type, 0);
    if (self == nullptr) return nullptr;
    auto& box = *new (&unbox<BrokerBox>(self)) BrokerBox;
    box.path = broker->path();
    owns_socket(box.path);
    box.broker = std::move(broker);  // nobody else knows it yet
    return self;
}

PyObject* close(PyObject* self, PyObject*) {
    auto& box = unbox<BrokerBox>(self);
    if (box.forks != fork_count()) {
        (void)box.broker.release();  // the parent's, with its thread and its socket
    } else {
        const WithoutGil without;
        std::lock_guard lock(box.closing);
        if (box.broker) {
            box.broker.reset();
            disowns_socket(box.path);  // afterwards: the lifeline may end this process meanwhile
        }
    }
    Py_RETURN_NONE;
}

void dealloc(PyObject* self) {
    Py_XDECREF(close(self, nullptr));
    unbox<BrokerBox>(self).~BrokerBox();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject* get_path(PyObject* self, void*) { return PyUnicode_FromString(unbox<BrokerBox>(self).path.c_str()); }

// --- slot tables ---------------------------------------------------------------------------------------------

PyMethodDef methods[] = {
    {"close", close, METH_NOARGS, "close()\n--\n\nEnds the bus and removes its socket."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"path", get_path, nullptr, "The bus's socket.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc,
     const_cast<char*>(
         "Broker(name, memory, ring, quota, open=False)\n--\n\nCreates a bus and serves its socket. Who calls is "
         "admitted once something is served, or, if it is open, at once.")},
    {Py_tp_new, slot(make)},
    {Py_tp_dealloc, slot(dealloc)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, nullptr},
};

}  // namespace

PyType_Spec broker_spec = {"isthmus._isthmus.Broker", sizeof(Boxed<BrokerBox>), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, slots};
}  // namespace isthmus::python
