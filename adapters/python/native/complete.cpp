// The method Bus.complete: outcomes of deferred calls, encoded on the thread that has them.
#include "calling.hpp"
#include "errors.hpp"
#include "peer.hpp"

namespace isthmus::python {

namespace {

bool is_cancelled_error(State& state, PyObject* exception) {
    if (PyErr_GivenExceptionMatches(exception, state.cancelled)) return true;
    PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "asyncio.exceptions");
    const Ref type(module != nullptr ? PyObject_GetAttrString(module, "CancelledError") : nullptr);
    PyErr_Clear();
    return type && PyErr_GivenExceptionMatches(exception, type.get());
}

/// One call's outcome on its way to the dispatcher. GIL held.
class Outcome {
public:
    Outcome(Peer& peer, Memory& memory, std::uint64_t token, const Deferred::Entry& entry)
        : peer_(peer), state_(*peer.state), memory_(memory), token_(token), entry_(entry) {}

    void result(PyObject* value) {
        Deferred::Answer answer{token_, wire::Kind::reply, Status::ok, {}};
        const bool keeps = (entry_.flags & wire::frame_keeps) != 0;
        if (entry_.is_post) return push(std::move(answer));
        if (keeps ? encode_reference(state_, memory_, answer.out, value)
                  : encode(state_, memory_, answer.out, value, root("result"), true)) {
            push(std::move(answer));
        } else {
            exception(take_exception().get());
        }
    }

    void exception(PyObject* error) {
        Deferred::Answer answer{token_, wire::Kind::error, Status::ok, {}};
        if (entry_.is_post) {
            log_exception(state_, "the post of '" + entry_.name + "' failed", error);
        } else if (entry_.cancelled && is_cancelled_error(state_, error)) {
            answer.status = Status::cancelled;
        } else {
            put_exception(state_, memory_, answer.out, error, entry_.tells_origin);
        }
        push(std::move(answer));
    }

    /// False when one of them can't travel, which has ended the stream.
    bool items(PyObject* list) {
        const Ref items(PySequence_Fast(list, "items come in a list"));
        Deferred::Answer answer{token_, wire::Kind::item, Status::ok, {}};
        for (Py_ssize_t i = 0; items && i < PySequence_Fast_GET_SIZE(items.get()); ++i) {
            const Ref item = Ref::to(PySequence_Fast_GET_ITEM(items.get(), i));
            if (!encode(state_, memory_, answer.out, item.get(), root("item"), true)) {
                const Ref error = take_exception();
                if (answer.items != 0) push(std::move(answer));
                exception(error.get());
                return false;
            }
            const auto& values = answer.out.values;
            if (++answer.items < most_items && values.cells().size_bytes() + values.heap().size() < most_item_bytes)
                continue;
            push(std::exchange(answer, {token_, wire::Kind::item, Status::ok, {}}));
        }
        if (answer.items != 0) push(std::move(answer));
        if (!items) exception(take_exception().get());
        return static_cast<bool>(items);
    }

    void end() {
        Deferred::Answer answer{token_, wire::Kind::reply, Status::ok, {}};
        answer.out.values.null();
        push(std::move(answer));
    }

private:
    Root root(const char* name) const { return Root::of_call(name, entry_.flags, memory_.pickles_for(entry_.caller)); }

    void push(Deferred::Answer&& answer) {
        if (answer.out.has_copies()) {
            Status settled;
            {
                const WithoutGil without;
                settled = answer.out.settle(memory_);
            }
            answer.out.drop_copies();
            if (settled != Status::ok) {
                answer.out.end(memory_, false);
                if (answer.kind == wire::Kind::item) peer_.deferred.give_up(answer.token);
                answer.kind = wire::Kind::error;
                answer.status = settled;
            }
        }
        if (!peer_.deferred.push(answer)) answer.out.end(memory_, false);
    }

    Peer& peer_;
    State& state_;
    Memory& memory_;
    const std::uint64_t token_;
    const Deferred::Entry& entry_;
};

bool tell(Peer& peer, Memory& memory, PyObject* told) {
    unsigned long long token;
    int what;
    PyObject* value;
    if (!PyArg_ParseTuple(told, "KiO;an outcome is (token, what, value)", &token, &what, &value)) return false;
    const auto entry = peer.deferred.find(token);
    if (!entry) return true;
    Outcome outcome(peer, memory, token, *entry);
    switch (static_cast<What>(what)) {
        case What::result:
            if ((entry->flags & wire::frame_streams) == 0) {
                outcome.result(value);
            } else {
                outcome.end();
            }
            return true;
        case What::exception: outcome.exception(value); return true;
        case What::items:
            if (!outcome.items(value)) peer.deferred.give_up(token);
            return true;
        case What::end: outcome.end(); return true;
    }
    PyErr_Format(PyExc_ValueError, "an outcome is 0, 1, 2 or 3, and not %d", what);
    return false;
}

}  // namespace

PyObject* complete(PyObject* self, PyObject* outcomes) {
    Peer& peer = peer_of(self);
    if (peer.forks != fork_count()) Py_RETURN_NONE;
    return guarded(*peer.state, static_cast<PyObject*>(nullptr), [&]() -> PyObject* {
        const std::shared_ptr<Memory> memory = peer.open_memory();
        const Ref all(PySequence_Fast(outcomes, "outcomes come in a list"));
        if (!all) return nullptr;
        if (!memory) Py_RETURN_NONE;
        bool fine = true;
        for (Py_ssize_t i = 0; fine && i < PySequence_Fast_GET_SIZE(all.get()); ++i) {
            const Ref told = Ref::to(PySequence_Fast_GET_ITEM(all.get(), i));
            fine = tell(peer, *memory, told.get());
        }
        if (Memory::of_this_thread() != memory) peer.wake();
        return fine ? Py_NewRef(Py_None) : nullptr;
    });
}

}  // namespace isthmus::python
