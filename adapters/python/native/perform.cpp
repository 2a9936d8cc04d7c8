// One call, with the GIL: an export's, an object's, or an operation.
#include <unistd.h>

#include <cstdlib>

#include "dispatcher.hpp"
#include "errors.hpp"

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
            const std::uint32_t parcels = call.target->parcels.load(std::memory_order_relaxed);
            if (callable && read_arguments(decoder, parcels, arguments, names, positional)) {
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
    if (encode(state_, *memory_, scratch.out, result.get(), root_of(call, "result"), true)) {
        reply(call, scratch.out, wire::Kind::reply);
    } else {
        answer_exception(call);
    }
}

Root Dispatcher::root_of(const Call& call, const char* name) const {
    return Root::of_call(name, call.frame.flags, call.link != nullptr && memory_->pickles_for(call.link->ends().other));
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
            : encode(state_, *memory_, scratch.out, result.get(), root_of(call, "result"), true)) {
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
    const bool is_own =
        !decoder.at_end() && decoder.peek().tag == wire::Tag::reference && memory_->objects().owns(decoder.peek());
    if (!is_own && (decoder.at_end() || decoder.peek().tag != wire::Tag::text)) {
        PyErr_SetString(PyExc_TypeError,
                        "an operation begins with one of this peer's objects, or the name of a module");
        return {};
    }
    const Ref subject(decoder.next());
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

bool Dispatcher::read_arguments(Decoder& decoder, std::size_t parcels, std::vector<PyObject*>& arguments, Ref& names,
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
        PyObject* value = positional < parcels ? decoder.next_parcel() : decoder.next();
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

}  // namespace isthmus::python
