#include "kinds.hpp"

#include "arrays.hpp"

namespace isthmus::python {

bool has(PyTypeObject* type, const char* name) {
    const Ref attribute(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), name));
    PyErr_Clear();
    return static_cast<bool>(attribute);
}

namespace {

constexpr Py_ssize_t most_types = 4096;  // remembered; a program that makes types without end does not make this grow

/// Whether `type` derives from module.name; false, and nothing imported, while nobody has imported the module.
bool derives(PyTypeObject* type, const char* module_name, const char* name) {
    const Ref key(PyUnicode_FromString(module_name));
    const Ref module(key ? PyImport_GetModule(key.get()) : nullptr);
    Ref base(module ? PyObject_GetAttrString(module.get(), name) : nullptr);
    if (!base || !PyType_Check(base.get())) {
        PyErr_Clear();
        return false;
    }
    return PyType_IsSubtype(type, reinterpret_cast<PyTypeObject*>(base.get())) != 0;
}

bool is_a(PyTypeObject* type, PyObject* base) {
    return PyType_IsSubtype(type, reinterpret_cast<PyTypeObject*>(base)) != 0;
}

/// Whether its rows can be had as Arrow, and have columns: what has none, such as a Series, is one itself.
bool is_table(PyTypeObject* type) {
    if (!has(type, "__arrow_c_stream__") && !has(type, "__arrow_c_array__")) return false;
    return has(type, "columns") || has(type, "schema") || has(type, "column_names");
}

Kind work_out(State& state, PyTypeObject* type) {
    if (type == state.reference || has(type, "__isthmus_reference__")) return Kind::proxy;
    if (type == state.parcel) return Kind::parcel;
    if (type == &PySlice_Type) return Kind::slice;
    if (derives(type, "enum", "Enum")) return Kind::enumeration;
    if (has(type, "__dataclass_fields__")) return Kind::dataclass;
    if (type == &PyBool_Type) return Kind::boolean;
    if (type == Py_TYPE(Py_None)) return Kind::none;
    if (PyType_FastSubclass(type, Py_TPFLAGS_LONG_SUBCLASS)) return Kind::integer;
    if (PyType_FastSubclass(type, Py_TPFLAGS_UNICODE_SUBCLASS)) return Kind::text;
    if (PyType_FastSubclass(type, Py_TPFLAGS_LIST_SUBCLASS)) return Kind::list;
    if (PyType_FastSubclass(type, Py_TPFLAGS_DICT_SUBCLASS)) return Kind::dict;
    if (PyType_FastSubclass(type, Py_TPFLAGS_TUPLE_SUBCLASS))
        return has(type, "_fields") ? Kind::named_tuple : Kind::tuple;
    if (PyType_IsSubtype(type, &PyFloat_Type)) return Kind::real;
    if (const Numpy* numpy = numpy_if_imported(state)) {
        if (is_a(type, numpy->masked)) return Kind::naive_masked;
        if (is_a(type, numpy->generic)) return Kind::numpy_scalar;
    }
    if (PyType_IsSubtype(type, &PySet_Type) || PyType_IsSubtype(type, &PyFrozenSet_Type)) return Kind::set;
    if (PyType_IsSubtype(type, &PyComplex_Type)) return Kind::complex;
    if (PyType_FastSubclass(type, Py_TPFLAGS_BYTES_SUBCLASS) || PyType_IsSubtype(type, &PyByteArray_Type) ||
        type == &PyMemoryView_Type) {
        return Kind::bytes;
    }
    if (is_a(type, state.datetime)) return Kind::instant;
    if (is_a(type, state.date) || is_a(type, state.time)) return Kind::day_or_time;
    if (is_a(type, state.timedelta)) return Kind::duration;
    if (derives(type, "decimal", "Decimal") || derives(type, "uuid", "UUID") || derives(type, "pathlib", "PurePath")) {
        return Kind::as_text;
    }
    if (type->tp_as_buffer != nullptr && type->tp_as_buffer->bf_getbuffer != nullptr) return Kind::buffer;
    if (is_table(type)) return Kind::table;
    // What is also an array of Arrow is not taken for its numbers alone.
    if (has(type, "__array_interface__") || (has(type, "__dlpack__") && !has(type, "__arrow_c_array__")))
        return Kind::elements;
    return Kind::foreign;
}

}  // namespace

Kind kind_of(State& state, PyTypeObject* type) {
    auto* key = reinterpret_cast<PyObject*>(type);
    if (PyObject* known = PyDict_GetItemWithError(state.kinds, key)) return static_cast<Kind>(PyLong_AsLong(known));
    PyErr_Clear();
    const Kind kind = work_out(state, type);
    if (PyDict_GET_SIZE(state.kinds) >= most_types) PyDict_Clear(state.kinds);
    Ref number(PyLong_FromLong(static_cast<int>(kind)));
    if (!number || PyDict_SetItem(state.kinds, key, number.get()) < 0) PyErr_Clear();
    return kind;
}

}  // namespace isthmus::python
