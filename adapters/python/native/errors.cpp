#include "errors.hpp"

#include <cstring>

namespace isthmus::python {

namespace {

constexpr int most_causes = 16;

PyObject* class_of(State& state, Status status) {
    switch (status) {
        case Status::full:
        case Status::over_quota:
        case Status::too_large:
        case Status::no_memory: return state.bus_full;
        case Status::lost:
        case Status::closed:
        case Status::corrupt: return state.peer_lost;
        case Status::timed_out: return state.timeout_error;
        case Status::not_exported: return state.not_exported;
        case Status::cancelled: return state.cancelled;
        case Status::no_bus:
        case Status::refused:
        case Status::crowded:
        case Status::mismatch:
        case Status::busy:
        case Status::unsafe: return state.connect_error;
        default: return state.error;
    }
}

/// UTF-8 of what a call returned, whatever it did.
std::string text_of(PyObject* string, const std::string& otherwise) {
    Ref held(string);
    std::string text = otherwise;
    if (held && PyUnicode_Check(held.get())) {
        Ref bytes(PyUnicode_AsEncodedString(held.get(), "utf-8", "surrogatepass"));
        if (bytes) text.assign(PyBytes_AS_STRING(bytes.get()), static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get())));
    }
    PyErr_Clear();
    return text;
}

std::string attribute_text(PyObject* object, const char* name) {
    return text_of(PyObject_GetAttrString(object, name), "");
}

std::string traceback_text(State& state, PyObject* exception) {
    Ref lines(PyObject_CallOneArg(state.format_exception, exception));
    Ref nothing(PyUnicode_FromString(""));
    return text_of(lines && nothing ? PyUnicode_Join(nothing.get(), lines.get()) : nullptr, "");
}

/// Where the exception went in this process, as Python shows it.
std::string own_stack(PyObject* exception) {
    const Ref traceback(PyException_GetTraceback(exception));
    const Ref module(traceback ? PyImport_ImportModule("traceback") : nullptr);
    const Ref lines(module ? PyObject_CallMethod(module.get(), "format_tb", "O", traceback.get()) : nullptr);
    const Ref nothing(lines ? PyUnicode_FromString("") : nullptr);
    return text_of(nothing ? PyUnicode_Join(nothing.get(), lines.get()) : nullptr, "");
}

void put_text(Outgoing& out, const char* key, const std::string& text) {
    out.values.text(key, true);
    out.values.text(text);
}

void put_arguments(State& state, Memory& memory, Outgoing& out, PyObject* exception, std::size_t depth) {
    Ref arguments(PyObject_GetAttrString(exception, "args"));
    PyErr_Clear();
    const Py_ssize_t count = arguments && PyTuple_Check(arguments.get()) ? PyTuple_GET_SIZE(arguments.get()) : 0;
    out.values.text("args", true);
    out.values.container(wire::Tag::list, static_cast<std::uint32_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* argument = PyTuple_GET_ITEM(arguments.get(), i);
        if (encode(state, memory, out, argument, {"args", i, nullptr, depth + 2, false, false}, true)) continue;
        PyErr_Clear();
        out.values.text(text_of(PyObject_Repr(argument), "?"));
    }
}

Ref cause_of(PyObject* exception) {
    Ref cause(PyException_GetCause(exception));
    if (cause) return cause;
    if (reinterpret_cast<PyBaseExceptionObject*>(exception)->suppress_context) return {};
    return Ref(PyException_GetContext(exception));
}

/// What another peer told of an error, when it is one of those; empty for others.
Ref about_of(State& state, PyObject* exception) {
    if (!PyErr_GivenExceptionMatches(exception, state.python_error) &&
        !PyErr_GivenExceptionMatches(exception, state.js_error)) {
        return {};
    }
    Ref about(PyObject_GetAttr(exception, state.about_name));
    if (!about) PyErr_Clear();
    return about && PyDict_Check(about.get()) ? std::move(about) : Ref();
}

/// As it came, with what happened to it here appended to its traceback.
bool put_foreign(State& state, Memory& memory, Outgoing& out, PyObject* exception, PyObject* about, std::size_t depth) {
    const Ref copy(PyDict_Copy(about));
    if (!copy) return false;
    const auto is_text = [](PyObject* object) { return object != nullptr && PyUnicode_Check(object); };
    PyObject* traceback = PyDict_GetItemString(copy.get(), "traceback");
    const std::string before = is_text(traceback) ? text_of(Py_NewRef(traceback), "") : "";
    const std::string here = before + "\n\u2014 through Python \u2014\n" + own_stack(exception);
    const Ref text(PyUnicode_DecodeUTF8(here.data(), static_cast<Py_ssize_t>(here.size()), "surrogatepass"));
    return text && PyDict_SetItemString(copy.get(), "traceback", text.get()) == 0 &&
           encode(state, memory, out, copy.get(), {"error", -1, nullptr, depth, true, false}, true);
}

void put_one(State& state, Memory& memory, Outgoing& out, PyObject* exception, int depth, bool tells_origin) {
    if (const Ref about = about_of(state, exception)) {
        if (put_foreign(state, memory, out, exception, about.get(), static_cast<std::size_t>(depth))) return;
        PyErr_Clear();
    }
    auto* type = reinterpret_cast<PyObject*>(Py_TYPE(exception));
    out.values.container(wire::Tag::object, tells_origin ? 8 : 7);
    put_text(out, "language", "python");
    if (tells_origin) {
        out.values.text("origin", true);
        const auto mark = out.mark();
        if (!encode_reference(state, memory, out, exception)) {
            out.rewind(mark, memory);
            out.values.null();
        }
    }
    put_text(out, "type", attribute_text(type, "__qualname__"));
    put_text(out, "module", attribute_text(type, "__module__"));
    put_text(out, "message", text_of(PyObject_Str(exception), "(its __str__ failed)"));
    // The text of the outermost one tells of its causes as well.
    put_text(out, "traceback", depth == 0 ? traceback_text(state, exception) : "");
    put_arguments(state, memory, out, exception, static_cast<std::size_t>(depth));
    out.values.text("cause", true);
    Ref cause = cause_of(exception);
    if (cause && depth < most_causes) {
        put_one(state, memory, out, cause.get(), depth + 1, false);
    } else {
        out.values.null();
    }
}

}  // namespace

void raise(State& state, Status status, const std::string& what) {
    PyErr_SetString(class_of(state, status), (what.empty() ? std::string(sentence(status)) : what).c_str());
}

void raise_connect_error(State& state, const Error& error, const std::string& bus) {
    std::string what = error.what();
    if (error.status() == Status::no_bus) what += ": start one with `python -m isthmus serve app.py --bus " + bus + "`";
    if (error.status() == Status::busy)
        what = "a bus named '" + bus + "' is being served already: choose another name, or stop the other host";
    const Ref raised(PyObject_CallFunction(state.connect_error, "s", what.c_str()));
    if (!raised) return;
    if (error.status() == Status::no_bus && PyObject_SetAttrString(raised.get(), "no_bus", Py_True) < 0) return;
    PyErr_SetObject(state.connect_error, raised.get());
}

void raise_encode_error(State& state, const std::string& path, const std::string& what) {
    const std::string message = path + ' ' + what;
    Ref error(PyObject_CallFunction(state.encode_error, "ss", message.c_str(), path.c_str()));
    if (error) PyErr_SetObject(state.encode_error, error.get());
}

Ref take_exception() {
#if PY_VERSION_HEX >= 0x030c0000
    return Ref(PyErr_GetRaisedException());
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != nullptr && traceback != nullptr) PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return Ref(value);
#endif
}

void put_exception(State& state, Memory& memory, Outgoing& out, PyObject* exception, bool tells_origin) {
    put_one(state, memory, out, exception, 0, tells_origin);
    PyErr_Clear();
}

void log_exception(State& state, const std::string& message, PyObject* exception) {
    Ref method(PyObject_GetAttrString(state.logger, "error"));
    Ref arguments(Py_BuildValue("(ss)", "%s", message.c_str()));
    Ref named(exception != nullptr ? Py_BuildValue("{s:O}", "exc_info", exception) : PyDict_New());
    Ref done(method && arguments && named ? PyObject_Call(method.get(), arguments.get(), named.get()) : nullptr);
    if (!done) PyErr_Clear();
}

namespace {

/// The object of an error frame, where `origin` is a Reference, or the very exception when it comes home.
Ref read_about(Decoder& decoder, Ref& origin) {
    if (decoder.at_end()) return Ref(PyDict_New());
    if (decoder.peek().tag != wire::Tag::object) return Ref(decoder.next());
    const std::uint32_t count = decoder.peek().count;
    decoder.enter();
    Ref about(PyDict_New());
    for (std::uint32_t i = 0; about && i < count; ++i) {
        const Ref key(decoder.next_text());
        if (!key) return {};
        const bool is_origin =
            decoder.peek().tag == wire::Tag::reference && PyUnicode_CompareWithASCIIString(key.get(), "origin") == 0;
        const Ref value(is_origin ? decoder.next_origin() : decoder.next());
        if (!value || PyDict_SetItem(about.get(), key.get(), value.get()) < 0) return {};
        if (is_origin) origin = Ref::to(value.get());
    }
    return about;
}

/// Notes in an exception that has come home where it has been meanwhile, the first time: what it is told of later holds the
/// note as well, and would double with each hop. Python 3.10 has no notes.
void note_journey(PyObject* exception, PyObject* about) {
    if (PyObject_HasAttrString(exception, "__notes__")) return;
    PyObject* traceback = PyDict_GetItemString(about, "traceback");
    if (traceback == nullptr || !PyUnicode_Check(traceback)) return;
    const std::string text = text_of(Py_NewRef(traceback), "");
    const std::size_t at = text.find("\u2014 through ");
    if (at == std::string::npos) return;
    const Ref note(PyUnicode_DecodeUTF8(text.data() + at, static_cast<Py_ssize_t>(text.size() - at), "replace"));
    const Ref noted(note ? PyObject_CallMethod(exception, "add_note", "O", note.get()) : nullptr);
    if (!noted) PyErr_Clear();
}

}  // namespace

void raise_remote(State& state, const std::shared_ptr<Memory>& memory, const wire::Draft& frame,
                  const std::string& name) {
    Decoder decoder(state, memory, frame);
    Ref origin;
    const Ref about = read_about(decoder, origin);
    if (!about) return;
    if (frame.status == Status::not_exported) {
        PyObject* close = PyDict_Check(about.get()) ? PyDict_GetItemString(about.get(), "close") : nullptr;
        Ref error(PyObject_CallFunction(state.not_exported, "sO", name.c_str(), close != nullptr ? close : Py_None));
        if (error) PyErr_SetObject(state.not_exported, error.get());
        return;
    }
    const std::string what = name.empty() ? "the call of a remote object" : "the call of '" + name + "'";
    if (frame.status == Status::timed_out)
        return raise(state, frame.status, what + " began too late: its time had run out");
    if (frame.status == Status::closed)
        return raise(state, frame.status, "the other side stopped before it began, or had done, " + what);
    if (frame.status != Status::ok || !PyDict_Check(about.get())) return raise(state, frame.status);
    const Ref error = origin && PyExceptionInstance_Check(origin.get())
                          ? Ref::to(origin.get())
                          : Ref(PyObject_CallOneArg(state.remote_error, about.get()));
    if (error && error.get() == origin.get()) note_journey(error.get(), about.get());
    if (error && !PyExceptionInstance_Check(error.get())) {
        PyErr_SetString(state.error, "the other side sent an error that is none");
    } else if (error) {
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
    }
}

}  // namespace isthmus::python
