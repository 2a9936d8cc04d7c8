// What the dispatcher gives to others, with the GIL: calls to perform elsewhere, and outcomes to those who wait for them.
#include <algorithm>

#include "dispatcher.hpp"
#include "errors.hpp"
#include "request.hpp"

namespace isthmus::python {

// --- calls to perform elsewhere --------------------------------------------------------------------------------------

bool Dispatcher::defer_call(Call& call, PyObject* callable, const std::vector<PyObject*>& arguments, PyObject* names,
                            std::size_t positional) {
    const Ref args(PyTuple_New(static_cast<Py_ssize_t>(positional)));
    const Ref kwargs(args ? PyDict_New() : nullptr);
    if (!kwargs) return false;
    for (std::size_t i = 0; i < positional; ++i)
        PyTuple_SET_ITEM(args.get(), static_cast<Py_ssize_t>(i), Py_NewRef(arguments[i + 1]));
    for (Py_ssize_t i = 0; names != nullptr && i < PyTuple_GET_SIZE(names); ++i) {
        PyObject* value = arguments[1 + positional + static_cast<std::size_t>(i)];
        if (PyDict_SetItem(kwargs.get(), PyTuple_GET_ITEM(names, i), value) < 0) return false;
    }
    return defer(call, callable, args.get(), kwargs.get());
}

/// Has Bus.runner perform it, or go on with what it has resulted in (then args is None). False with an exception set.
bool Dispatcher::defer(Call& call, PyObject* what, PyObject* args, PyObject* kwargs) {
    const bool is_post = call.frame.kind == wire::Kind::post;
    if (call.link == nullptr && !is_post) {  // its caller is gone meanwhile: it is not begun
        const Ref closed(PyCoro_CheckExact(what) ? PyObject_CallMethod(what, "close", nullptr) : Py_NewRef(Py_None));
        if (!closed) PyErr_Clear();
        return true;
    }
    if (!hooks_.get(Hook::runner)) {
        PyErr_SetString(state_.error, "there is no event loop here to run it on");
        return false;
    }
    const Ref info(info_of(call));
    if (!handing_over_) handing_over_ = Ref(PyList_New(0));
    if (!info || !handing_over_) return false;
    if (call.cancelled) call_info(info.get()).cancelled = true;
    const std::uint64_t token =
        deferred_.add({call.link, call.frame.id, call.index, call.frame.flags, call_info(info.get()).slot, is_post,
                       tells_origin(call), false, call.target->name, Py_NewRef(info.get())});
    const Ref entry(Py_BuildValue("(KOOOO)", static_cast<unsigned long long>(token), what, args, kwargs, info.get()));
    if (!entry || PyList_Append(handing_over_.get(), entry.get()) < 0) {
        deferred_.remove(token, *memory_);
        return false;
    }
    return true;
}

/// All that was deferred, in one go.
void Dispatcher::hand_over() {
    const Ref batch = std::move(handing_over_);
    const Ref runner = hooks_.get(Hook::runner);
    const Ref done(runner ? PyObject_CallOneArg(runner.get(), batch.get()) : nullptr);
    if (done) return;
    if (!runner) PyErr_SetString(state_.error, "there is no event loop here to run it on");
    const Ref error = take_exception();
    log_exception(state_, "the calls of coroutines could not be begun", error.get());
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(batch.get()); ++i) {
        const std::uint64_t token = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(PyList_GET_ITEM(batch.get(), i), 0));
        Deferred::Answer answer{token, wire::Kind::error, Status::ok, {}};
        put_exception(state_, *memory_, answer.out, error.get(), false);
        if (!deferred_.push(answer)) answer.out.end(*memory_, false);
    }
}

// --- outcomes, cancels, credit ---------------------------------------------------------------------------------------

void Dispatcher::deliver() {
    if (calls_.has_events()) deliver_events();
    if (deferred_.has_news()) deliver_news();
}

/// To the sinks of the calls that were started here: lists of (tag, what, value), one list for each sink.
void Dispatcher::deliver_events() {
    std::vector<std::pair<PyObject*, Ref>> told;  // sink, borrowed from a call that is kept in events; list
    const auto events = calls_.take_events();
    const auto tell = [&](Pending& call, What what, const Ref& value) {
        auto at = std::find_if(told.rbegin(), told.rend(), [&](const auto& each) { return each.first == call.sink; });
        if (at == told.rend()) {
            told.emplace_back(call.sink, PyList_New(0));
            at = told.rbegin();
        }
        const Ref event(Py_BuildValue("(OiO)", call.tag, static_cast<int>(what), value.get()));
        if (!event || !at->second || PyList_Append(at->second.get(), event.get()) < 0) PyErr_Clear();
    };
    for (const Calls::Event& event : events) {
        Pending& call = *event.call;
        for (const auto& frame : event.items) {
            if (call.given_up) {
                drop_frame(state_, call, frame);
            } else if (const Ref items{items_of(state_, call, frame)}) {
                tell(call, What::items, items);
            } else {
                tell(call, What::exception, take_exception());
                (void)calls_.give_up(call.id);
                call.given_up = true;
            }
        }
        if (!event.settled) continue;
        if (call.given_up) {
            drop_frame(state_, call, call.frame);
            continue;
        }
        const Ref result(result_of(state_, call));
        tell(call, result ? What::result : What::exception, result ? Ref::to(result.get()) : take_exception());
    }
    for (const auto& [sink, list] : told) {
        const Ref done(list ? PyObject_CallOneArg(sink, list.get()) : nullptr);
        if (!done) log_exception(state_, "a result could not be delivered", take_exception().get());
    }
}

/// To Bus.canceller and Bus.on_credit.
void Dispatcher::deliver_news() {
    std::vector<std::uint64_t> cancelled;
    std::vector<Deferred::Grant> grants;
    deferred_.take_news(cancelled, grants);
    const auto give = [this](Hook hook, const Ref& list) {
        const Ref function = hooks_.get(hook);
        if (!function || !list || PyList_GET_SIZE(list.get()) == 0) return;
        const Ref done(PyObject_CallOneArg(function.get(), list.get()));
        if (!done) log_exception(state_, "the event loop could not be told", take_exception().get());
    };
    const Ref granted(PyList_New(0)), tokens(PyList_New(0));
    for (const auto& grant : grants) {
        const Ref entry(Py_BuildValue("(KI)", static_cast<unsigned long long>(grant.token), grant.count));
        if (granted && entry) (void)PyList_Append(granted.get(), entry.get());
    }
    for (const std::uint64_t token : cancelled) {
        const Ref entry(PyLong_FromUnsignedLongLong(token));
        if (tokens && entry) (void)PyList_Append(tokens.get(), entry.get());
    }
    give(Hook::on_credit, granted);
    give(Hook::canceller, tokens);
}

}  // namespace isthmus::python
