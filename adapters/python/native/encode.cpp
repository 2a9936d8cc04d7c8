#include <array>
#include <cstring>

#include "arrays.hpp"
#include "arrow.hpp"
#include "errors.hpp"
#include "kinds.hpp"
#include "parcel.hpp"
#include "reference.hpp"
#include "values.hpp"

namespace isthmus::python {

namespace {

constexpr std::uint64_t most_bytes = std::uint64_t{256} << 20;  // of one message, its arrays aside

/// What is gone through: where there is no GIL a copy, since another thread may change the original.
Ref steady_list(PyObject* list) {
#ifdef Py_GIL_DISABLED
    return Ref(PyList_GetSlice(list, 0, PY_SSIZE_T_MAX));
#else
    return Ref::to(list);
#endif
}
Ref steady_dict(PyObject* dict) {
#ifdef Py_GIL_DISABLED
    return Ref(PyDict_Copy(dict));
#else
    return Ref::to(dict);
#endif
}

/// Whether this one object, and not its type, has an __array_interface__.
bool has_own_interface(PyObject* object) {
    if (Py_TYPE(object)->tp_dictoffset == 0 || PyType_Check(object) || PyModule_Check(object)) return false;
    const Ref own(PyObject_GenericGetDict(object, nullptr));
    if (own) return PyDict_GetItemString(own.get(), "__array_interface__") != nullptr;
    PyErr_Clear();
    return false;
}

/// What others may do with a lent object, beyond its attributes.
std::uint16_t flags_of(PyObject* object) {
    PyTypeObject* type = Py_TYPE(object);
    std::uint16_t flags = 0;
    if (PyCallable_Check(object)) flags |= wire::reference_callable;
    if (PyExceptionInstance_Check(object)) flags |= wire::reference_exception;
    const bool is_async = type->tp_as_async != nullptr && type->tp_as_async->am_anext != nullptr;
    // What can be entered, such as a file, is more than its items.
    if ((is_async || PyIter_Check(object)) && !has(type, "__enter__") && !has(type, "__aenter__"))
        flags |= wire::reference_iterable;
    if (is_async) flags |= wire::reference_async;
    if (PyFunction_Check(object)) {
        const auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(object));
        if (code->co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR)) flags |= wire::reference_async;
    }
    return flags;
}

/// One value and what is in it. GIL held.
class Encoder {
public:
    Encoder(State& state, Memory& memory, Outgoing& out, const Root& root, bool own)
        : state_(state), memory_(memory), out_(out), values_(out.values), root_(root), own_(own) {}

    bool reference(PyObject* object) {
        const Ref reference = kind_of(state_, Py_TYPE(object)) == Kind::proxy ? reference_in(state_, object) : Ref();
        return reference ? proxy(object, reference.get()) : lend(object);
    }

    bool value(PyObject* object) {
        if (PyLong_CheckExact(object)) return integer(object);
        if (PyFloat_CheckExact(object)) {
            values_.real(PyFloat_AS_DOUBLE(object));
            return true;
        }
        if (PyUnicode_CheckExact(object)) return text(object);
        if (object == Py_None) {
            values_.null();
            return true;
        }
        if (PyBool_Check(object)) {
            values_.boolean(object == Py_True);
            return true;
        }
        if (PyList_CheckExact(object)) return list(object);
        if (PyDict_CheckExact(object)) return dict(object);
        if (PyTuple_CheckExact(object)) return tuple(object);
        return uncommon(object);
    }

private:
    // What leads from an open container to the value that is being encoded.
    struct Level {
        PyObject* container;
        PyObject* key;  // null: `index` counts
        Py_ssize_t index;
    };

    bool uncommon(PyObject* object) {
        switch (kind_of(state_, Py_TYPE(object))) {
            case Kind::none: values_.null(); return true;
            case Kind::boolean: values_.boolean(object == Py_True); return true;
            case Kind::integer: return integer(object);
            case Kind::real: values_.real(PyFloat_AS_DOUBLE(object)); return true;
            case Kind::text: return text(object);
            case Kind::list: return list(object);
            case Kind::tuple: return tuple(object);
            case Kind::dict: return dict(object);
            case Kind::set: return set(object);
            case Kind::complex: return complex(PyComplex_AsCComplex(object));
            case Kind::buffer:
            case Kind::elements: return buffer(object, false);
            case Kind::bytes: return buffer(object, true);
            case Kind::enumeration: return step("value", Ref(PyObject_GetAttrString(object, "value")), object);
            case Kind::dataclass: return dataclass(object);
            case Kind::named_tuple: return named_tuple(object);
            case Kind::instant: return instant(object);
            case Kind::day_or_time:
            case Kind::as_text: {
                Ref string(PyObject_Str(object));
                return string && text(string.get());
            }
            case Kind::duration: {
                Ref seconds(PyObject_CallMethod(object, "total_seconds", nullptr));
                return seconds && value(seconds.get());
            }
            case Kind::numpy_scalar: return numpy_scalar(object);
            case Kind::naive_masked:
                if (root_.pickles) return lend(object);
                return fail("is a masked array, and the mask can't travel: fill it first (filled())");
            case Kind::slice: return slice(object);
            case Kind::table: return root_.pickles ? lend(object) : table(object);
            case Kind::parcel: return splice(memory_, out_, object) || fail("is a parcel of another bus");
            case Kind::proxy: {
                const Ref reference = reference_in(state_, object);
                return reference ? proxy(object, reference.get()) : lend(object);
            }
            case Kind::foreign: return has_own_interface(object) ? buffer(object, false) : lend(object);
        }
        return false;
    }

    bool proxy(PyObject* object, PyObject* reference) {
        if (!root_.lends || !is_from(reference, memory_)) return lend(object);
        wire::Cell cell;
        if (!cell_of(reference, cell)) return fail("is a remote object that was released already");
        values_.put(cell);
        out_.held.push_back(Py_NewRef(reference));
        return true;
    }

    /// What has no value form: as a pickle where that is wanted and can be, else as a reference.
    bool lend(PyObject* object) {
        if (root_.pickles && flags_of(object) == 0 && kind_of(state_, Py_TYPE(object)) != Kind::proxy &&
            !PyModule_Check(object)) {
            const Ref module(PyImport_ImportModule("isthmus.pickles"));
            const Ref parts(module ? PyObject_CallMethod(module.get(), "dump", "O", object) : nullptr);
            if (!parts) return false;
            if (parts.get() != Py_None) return pickle(object, parts.get());
        }
        if (!root_.lends) return fail("has no value form");
        Objects& objects = memory_.objects();
        const std::uint64_t id = objects.pin(object);
        out_.pins.push_back(id);
        values_.put(wire::reference(objects.slot(), objects.generation(), id, flags_of(object)));
        return true;
    }

    /// `parts`: the stream, then its buffers.
    bool pickle(PyObject* object, PyObject* parts) {
        if (out_.pickled.empty()) out_.pickled = path(depth_);
        const Py_ssize_t count = PyList_GET_SIZE(parts);
        if (!open(object, wire::Tag::pickle, count)) return false;
        for (Py_ssize_t i = 0; i < count; ++i) {
            at(i);
            if (!buffer(PyList_GET_ITEM(parts, i), true)) return false;
        }
        return close();
    }

    bool slice(PyObject* object) {
        if (!push(object)) return false;
        values_.container(wire::Tag::slice, 0);
        for (const char* name : {"start", "stop", "step"}) {
            const Ref key(PyUnicode_FromString(name));
            const Ref part(key ? PyObject_GetAttr(object, key.get()) : nullptr);
            if (!part) return false;
            at(key.get());
            if (!value(part.get())) return false;
        }
        return close();
    }

    bool integer(PyObject* object) {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
        if (overflow == 0) {
            values_.integer(number);
            return true;
        }
        Ref bits(PyObject_CallMethod(object, "bit_length", nullptr));
        if (!bits) return false;
        Ref arguments(Py_BuildValue("(ls)", PyLong_AsLong(bits.get()) / 8 + 1, "little"));
        Ref named(Py_BuildValue("{s:O}", "signed", Py_True));
        Ref method(PyObject_GetAttrString(object, "to_bytes"));
        Ref bytes(arguments && named && method ? PyObject_Call(method.get(), arguments.get(), named.get()) : nullptr);
        if (!bytes) return false;
        const auto* data = reinterpret_cast<const unsigned char*>(PyBytes_AS_STRING(bytes.get()));
        auto size = static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get()));
        while (size > 1 && data[size - 1] == (data[size - 2] & 0x80 ? 0xff : 0x00)) --size;
        values_.bigint({reinterpret_cast<const std::byte*>(data), size});
        return true;
    }

    bool text(PyObject* object) {
        Py_ssize_t size = 0;
        if (const char* utf8 = PyUnicode_AsUTF8AndSize(object, &size)) {
            if (!fits(static_cast<std::uint64_t>(size))) return false;
            values_.text({utf8, static_cast<std::size_t>(size)}, PyUnicode_IS_ASCII(object));
            return true;
        }
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) return false;
        PyErr_Clear();
        Ref bytes(PyUnicode_AsEncodedString(object, "utf-8", "surrogatepass"));
        if (!bytes || !fits(static_cast<std::uint64_t>(PyBytes_GET_SIZE(bytes.get())))) return false;
        values_.text({PyBytes_AS_STRING(bytes.get()), static_cast<std::size_t>(PyBytes_GET_SIZE(bytes.get()))});
        return true;
    }

    bool list(PyObject* object) {
        const Ref steady = steady_list(object);
        if (!steady) return false;
        const Py_ssize_t count = PyList_GET_SIZE(steady.get());
        if (!open(object, wire::Tag::list, count)) return false;
        for (Py_ssize_t i = 0; i < count; ++i) {
            if (i >= PyList_GET_SIZE(steady.get())) return changed();
            at(i);
            const Ref item = Ref::to(PyList_GET_ITEM(steady.get(), i));
            if (!value(item.get())) return false;
        }
        return close();
    }

    bool tuple(PyObject* object) {
        const Py_ssize_t count = PyTuple_GET_SIZE(object);
        if (!open(object, wire::Tag::tuple, count)) return false;
        for (Py_ssize_t i = 0; i < count; ++i) {
            at(i);
            if (!value(PyTuple_GET_ITEM(object, i))) return false;
        }
        return close();
    }

    bool dict(PyObject* object) {
        const Ref steady = steady_dict(object);
        if (!steady) return false;
        Py_ssize_t position = 0;
        PyObject *key, *item;
        bool keyed_by_text = true;
        while (keyed_by_text && PyDict_Next(steady.get(), &position, &key, &item)) keyed_by_text = PyUnicode_Check(key);
        const Py_ssize_t count = PyDict_GET_SIZE(steady.get());
        if (!open(object, keyed_by_text ? wire::Tag::object : wire::Tag::map, count)) return false;
        Py_ssize_t seen = 0;
        position = 0;
        while (PyDict_Next(steady.get(), &position, &key, &item)) {
            if (seen++ == count) return changed();
            Ref held_key = Ref::to(key);
            Ref held_item = Ref::to(item);
            at(key);
            if (keyed_by_text ? !PyUnicode_Check(key) || !text(key) : !value(key))
                return PyErr_Occurred() ? false : changed();
            if (!value(item)) return false;
        }
        return seen == count ? close() : changed();
    }

    bool set(PyObject* object) {
        const Py_ssize_t count = PySet_GET_SIZE(object);
        if (!open(object, wire::Tag::set, count)) return false;
        Ref iterator(PyObject_GetIter(object));
        if (!iterator) return false;
        Py_ssize_t seen = 0;
        while (PyObject* item = PyIter_Next(iterator.get())) {
            Ref held(item);
            if (seen == count) return changed();
            at(seen++);
            if (!value(item)) return false;
        }
        if (PyErr_Occurred()) return false;
        return seen == count ? close() : changed();
    }

    bool complex(Py_complex number) {
        values_.container(wire::Tag::object, 2);
        values_.text("re", true);
        values_.real(number.real);
        values_.text("im", true);
        values_.real(number.imag);
        return true;
    }

    bool buffer(PyObject* object, bool as_bytes) {
        const auto wrong = encode_buffer(state_, memory_, out_, object, as_bytes, own_, own_ && depth_ == 0);
        if (!wrong) return true;
        if (wrong->empty()) return false;
        return root_.pickles ? lend(object) : fail(*wrong);
    }

    bool table(PyObject* object) {
        if (!root_.tables) return lend(object);
        const TableSent sent = encode_table(state_, memory_, out_, object, depth_ + root_.depth);
        switch (sent.outcome) {
            case TableSent::Outcome::done: return fits(0);
            case TableSent::Outcome::no_table: return lend(object);
            case TableSent::Outcome::raised: return false;
            case TableSent::Outcome::refused: break;
        }
        raise_encode_error(state_, path(depth_) + sent.column, sent.reason);
        return false;
    }

    bool dataclass(PyObject* object) {
        Ref module(PyImport_ImportModule("dataclasses"));
        Ref fields(module ? PyObject_CallMethod(module.get(), "fields", "O", object) : nullptr);
        if (!fields || !open(object, wire::Tag::object, PyTuple_GET_SIZE(fields.get()))) return false;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(fields.get()); ++i) {
            Ref name(PyObject_GetAttrString(PyTuple_GET_ITEM(fields.get(), i), "name"));
            Ref item(name ? PyObject_GetAttr(object, name.get()) : nullptr);
            if (!item) return false;
            at(name.get());
            if (!text(name.get()) || !value(item.get())) return false;
        }
        return close();
    }

    bool named_tuple(PyObject* object) {
        Ref fields(PyObject_GetAttrString(reinterpret_cast<PyObject*>(Py_TYPE(object)), "_fields"));
        if (!fields) return false;
        const Py_ssize_t count = PyTuple_GET_SIZE(object);
        if (!PyTuple_Check(fields.get()) || PyTuple_GET_SIZE(fields.get()) != count) return tuple(object);
        if (!open(object, wire::Tag::object, count)) return false;
        for (Py_ssize_t i = 0; i < count; ++i) {
            PyObject* name = PyTuple_GET_ITEM(fields.get(), i);
            if (!PyUnicode_Check(name)) return fail("is a tuple whose _fields are not names");
            at(name);
            if (!text(name) || !value(PyTuple_GET_ITEM(object, i))) return false;
        }
        return close();
    }

    bool instant(PyObject* object) {
        Ref offset(PyObject_CallMethod(object, "utcoffset", nullptr));
        if (!offset) return false;
        if (offset.get() == Py_None) {
            return fail(
                "is a datetime without a time zone, so which instant it means is not known: give it a tzinfo, such as "
                "datetime.timezone.utc");
        }
        Ref since(PyNumber_Subtract(object, state_.epoch));
        if (!since) return false;
        double milliseconds = 0;
        for (const auto& [name, factor] :
             {std::pair{"days", 86'400'000.0}, {"seconds", 1000.0}, {"microseconds", 0.001}}) {
            Ref part(PyObject_GetAttrString(since.get(), name));
            if (!part) return false;
            milliseconds += PyFloat_AsDouble(part.get()) * factor;
        }
        if (PyErr_Occurred()) return false;
        values_.date(milliseconds);
        return true;
    }

    bool numpy_scalar(PyObject* object) {
        Ref item(PyObject_CallMethod(object, "item", nullptr));
        if (!item) return false;
        const bool plain = PyBool_Check(item.get()) || PyLong_CheckExact(item.get()) ||
                           PyFloat_CheckExact(item.get()) || PyComplex_CheckExact(item.get());
        Ref dtype(PyObject_GetAttrString(object, "dtype"));
        Ref kind(dtype ? PyObject_GetAttrString(dtype.get(), "kind") : nullptr);
        if (!kind) return false;
        // The items of timedelta64 and datetime64 may be integers that have lost their unit.
        const char* letter = PyUnicode_AsUTF8(kind.get());
        if (letter == nullptr) return false;
        return plain && std::strchr("biufc", *letter) != nullptr ? value(item.get()) : lend(object);
    }

    /// The value that an attribute leads to; its name is in the path only when it can't travel.
    bool step(const char* name, const Ref& inner, PyObject* outer) {
        if (!inner) return false;
        if (inner.get() == outer) return lend(outer);
        Ref key(PyUnicode_FromString(name));
        if (!key || !push(outer)) return false;
        at(key.get());
        return value(inner.get()) && close();
    }

    void at(Py_ssize_t index) { levels_[depth_ - 1].key = nullptr, levels_[depth_ - 1].index = index; }
    void at(PyObject* key) { levels_[depth_ - 1].key = key; }

    bool push(PyObject* container) {
        if (depth_ + root_.depth == wire::max_depth) return too_deep(container);
        levels_[depth_++] = {container, nullptr, 0};
        return true;
    }

    bool open(PyObject* container, wire::Tag tag, Py_ssize_t count) {
        if (!push(container) || !fits(static_cast<std::uint64_t>(count) * sizeof(wire::Cell))) return false;
        values_.container(tag, static_cast<std::uint32_t>(count));
        return true;
    }

    bool close() {
        --depth_;
        return true;
    }

    bool fits(std::uint64_t more) {
        if (more + values_.heap().size() + values_.cells().size_bytes() <= most_bytes) return true;
        return fail("makes the message larger than 256 MiB: send large data as arrays");
    }

    bool changed() { return fail("changed while it was being sent"); }

    bool too_deep(PyObject* container) {
        for (std::size_t later = 1; later <= depth_; ++later) {
            PyObject* inner = later == depth_ ? container : levels_[later].container;
            for (std::size_t earlier = 0; earlier < later; ++earlier) {
                if (levels_[earlier].container != inner) continue;
                const std::string outer = path(earlier);
                depth_ = later;
                return fail("contains itself: it is " + outer + " again");
            }
        }
        return fail("is nested more than 128 levels deep");
    }

    std::string path(std::size_t depth) const {
        std::string path = root_.name;
        const auto append = [&path](PyObject* key, Py_ssize_t index) {
            if (key == nullptr) {
                path += '[' + std::to_string(index) + ']';
                return;
            }
            path += path_step(key);
        };
        if (root_.key != nullptr || root_.index >= 0) append(root_.key, root_.index);
        for (std::size_t i = 0; i < depth; ++i) append(levels_[i].key, levels_[i].index);
        return path;
    }

    bool fail(const std::string& what) {
        raise_encode_error(state_, path(depth_), what);
        return false;
    }

    State& state_;
    Memory& memory_;
    Outgoing& out_;
    wire::Values& values_;
    const Root& root_;
    const bool own_;
    std::size_t depth_ = 0;
    std::array<Level, wire::max_depth> levels_;
};

}  // namespace

std::string path_step(PyObject* key) {
    const bool is_name = PyUnicode_Check(key) && PyUnicode_IsIdentifier(key) == 1;
    const Ref text(is_name ? Py_NewRef(key) : PyObject_Repr(key));
    const char* utf8 = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
    if (utf8 == nullptr) PyErr_Clear();
    const std::string shown = utf8 == nullptr ? "?" : utf8;
    return is_name ? '.' + shown : '[' + shown + ']';
}

bool encode(State& state, Memory& memory, Outgoing& out, PyObject* value, const Root& root, bool own) {
    // The commonest results need neither a path nor a way back.
    if (PyLong_CheckExact(value)) {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        if (overflow == 0) {
            out.values.integer(number);
            return true;
        }
    }
    if (PyFloat_CheckExact(value)) {
        out.values.real(PyFloat_AS_DOUBLE(value));
        return true;
    }
    const auto mark = out.mark();
    if (Encoder(state, memory, out, root, own).value(value)) return true;
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    out.rewind(mark, memory);
    PyErr_Restore(type, error, traceback);
    return false;
}

bool encode_reference(State& state, Memory& memory, Outgoing& out, PyObject* value) {
    return Encoder(state, memory, out, {"result"}, true).reference(value);
}

}  // namespace isthmus::python
