// One call, with the GIL: an export's, an object's, or an operation; and what others' outcomes are told to.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "dispatcher.hpp"
#include "errors.hpp"
#include "request.hpp"

namespace isthmus::python {

namespace {

constexpr std::uint32_t most_depth = 128;  // of calls within calls

bool is_awaitable(PyObject* object) {
    const PyAsyncMethods* async = Py_TYPE(object)->tp_as_async;
    return async != nullptr && async->am_await != nullptr;
}

bool is_async_iterable(PyObject* object) {
    const PyAsyncMethods* async = Py_TYPE(object)->tp_as_async;
    return async != nullptr && async->am_aiter != nullptr;
}

}  // namespace

void Dispatcher::perform(Call& call, Scratch& scratch) {
    const Performs here(*this, call);
    Ref result;
    bool is_deferred = false;
    {
        Decoder decoder(state_, memory_, call.frame);
        Ref names;
        std::size_t positional = 0;
        auto& arguments = scratch.arguments;
        arguments.clear();
        arguments.push_back(nullptr);
        if (depth_ > most_depth) {
            PyErr_SetString(PyExc_RecursionError, "calls are nested deeper than 128");
        } else if (call.index == wire::operation) {
            result = operate(call, decoder);
        } else {
            const Ref callable = call.index != wire::on_object ? exports_->callable(*call.target)
                                 : decoder.at_end()            ? Ref::to(Py_None)
                                                               : Ref(decoder.next());
            if (callable && read_arguments(decoder, arguments, names, positional)) {
                if (call.target->deferred.load(std::memory_order_relaxed)) {
                    is_deferred = defer_call(call, callable.get(), arguments, names.get(), positional);
                } else {
                    result = Ref(PyObject_Vectorcall(callable.get(), arguments.data() + 1,
                                                     positional | PY_VECTORCALL_ARGUMENTS_OFFSET, names.get()));
                }
            }
        }
        // An export has forked, and its child came back from it: the bus is the parent's, and there is nobody to answer.
        if (!memory_->is_ours()) ::_exit(EXIT_FAILURE);
        for (std::size_t i = 1; i < arguments.size(); ++i) Py_DECREF(arguments[i]);
    }
    if (is_deferred) return;
    if (!result) return answer_exception(call);
    constexpr std::uint16_t special = wire::frame_streams | wire::frame_keeps;
    if ((call.frame.flags & special) != 0 || is_awaitable(result.get()))
        return conclude(call, scratch, std::move(result));
    if (call.frame.kind == wire::Kind::post) return;
    if (encode(state_, *memory_, scratch.out, result.get(), {"result"}, true)) {
        reply(call, scratch.out, wire::Kind::reply);
    } else {
        answer_exception(call);
    }
}

/// What a result becomes that is awaited, streamed or kept.
void Dispatcher::conclude(Call& call, Scratch& scratch, Ref result) {
    const bool streams = (call.frame.flags & wire::frame_streams) != 0;
    if (is_awaitable(result.get()) || (streams && is_async_iterable(result.get()))) {
        if (hooks_.get(Hook::runner)) {
            if (!defer(call, result.get(), Py_None, Py_None)) answer_exception(call);
            return;
        }
    }
    if (streams) return open_pump(call, result.get());
    if (call.frame.kind == wire::Kind::post) return;
    if ((call.frame.flags & wire::frame_keeps) != 0
            ? encode_reference(state_, *memory_, scratch.out, result.get())
            : encode(state_, *memory_, scratch.out, result.get(), {"result"}, true)) {
        reply(call, scratch.out, wire::Kind::reply);
    } else {
        answer_exception(call);
    }
}

/// (subject, steps…) by Bus.operator.
Ref Dispatcher::operate(Call& call, Decoder& decoder) {
    const Ref operation = hooks_.get(Hook::operation);
    if (!operation) {
        PyErr_SetString(state_.error, "this peer takes no operations on its objects");
        return {};
    }
    const Ref subject(decoder.at_end() ? Py_NewRef(Py_None) : decoder.next());
    const Ref steps(subject ? PyList_New(0) : nullptr);
    if (!steps) return {};
    while (!decoder.at_end()) {
        const Ref step(decoder.next());
        if (!step || PyList_Append(steps.get(), step.get()) < 0) return {};
    }
    const Ref info(info_of(call));
    return info ? Ref(PyObject_CallFunctionObjArgs(operation.get(), subject.get(), steps.get(), info.get(), nullptr))
                : Ref();
}

bool Dispatcher::read_arguments(Decoder& decoder, std::vector<PyObject*>& arguments, Ref& names,
                                std::size_t& positional) {
    while (!decoder.at_end()) {
        const wire::Cell& cell = decoder.peek();
        if (cell.tag == wire::Tag::object && (cell.flags & wire::cell_kwargs) != 0) {
            decoder.enter();
            names = Ref(PyTuple_New(cell.count));
            for (std::uint32_t i = 0; names && i < cell.count; ++i) {
                PyObject* name = decoder.next_text();
                if (name == nullptr) return false;
                PyTuple_SET_ITEM(names.get(), i, name);
                PyObject* value = decoder.next();
                if (value == nullptr) return false;
                arguments.push_back(value);
            }
            return static_cast<bool>(names);
        }
        PyObject* value = decoder.next();
        if (value == nullptr) return false;
        arguments.push_back(value);
        ++positional;
    }
    return true;
}

// --- Call ------------------------------------------------------------------------------------------------------------

/// The Call of a call, made once; a new reference.
PyObject* Dispatcher::info_of(Call& call) {
    if (call.info == nullptr) {
        const std::uint32_t caller = call.link != nullptr ? call.link->ends().other : 0;
        call.info = new_call_info(state_, memory_, call.target->name, caller, call.frame.id, call.frame);
        if (call.info != nullptr && call.cancelled) call_info(call.info).cancelled = true;
    }
    return Py_XNewRef(call.info);
}

PyObject* Dispatcher::info() { return info_of(*serving_); }

Calling Dispatcher::calling() const {
    const wire::Draft& frame = serving_->frame;
    if (frame.activity != 0 || serving_->link == nullptr) return {frame.activity, frame.deadline};
    return {wire::activity_of(serving_->link->ends().other, frame.id), frame.deadline};
}

// --- what is performed elsewhere -------------------------------------------------------------------------------------

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
    if (!hooks_.get(Hook::runner)) {
        PyErr_SetString(state_.error, "there is no event loop here to run it on");
        return false;
    }
    const Ref info(info_of(call));
    if (!handing_over_) handing_over_ = Ref(PyList_New(0));
    if (!info || !handing_over_) return false;
    if (call.cancelled) call_info(info.get()).cancelled = true;
    const std::uint64_t token =
        deferred_.add({call.link, call.frame.id, call.index, call.frame.flags, call.frame.kind == wire::Kind::post,
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
        if (!deferred_.push(std::move(answer))) answer.out.end(*memory_, false);
    }
}

// --- what is told ----------------------------------------------------------------------------------------------------

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
