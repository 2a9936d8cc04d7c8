// The type Table: rows that have arrived, for whoever knows the Arrow PyCapsule interface.
#include <cerrno>
#include <new>

#include "receive_table.hpp"

namespace isthmus::python {

// --- the interface's structs over what was received: no GIL needed ------------------------------------------------

namespace {

template <class Struct>
void release_children(Struct& parent) {
    for (std::int64_t i = 0; i < parent.n_children; ++i) {
        if (parent.children[i]->release != nullptr) parent.children[i]->release(parent.children[i]);
    }
    if (parent.dictionary != nullptr && parent.dictionary->release != nullptr)
        parent.dictionary->release(parent.dictionary);
}

/// What a struct that was handed out keeps: the owner of what it points to, and its children.
template <class Struct, class Owner>
struct Shown {
    std::shared_ptr<const Owner> owner;
    std::vector<Struct> children;
    std::vector<Struct*> pointers;
    Struct dictionary{};

    static void release(Struct* self) {
        release_children(*self);
        delete static_cast<Shown*>(self->private_data);
        self->release = nullptr;
    }
};

/// Fills in what schemas and arrays have in common; `show` fills in a child.
template <class Struct, class Owner, class Node, class Show>
void show_tree(Struct& out, const std::shared_ptr<const Owner>& owner, const Node& node, Show&& show) {
    auto shown = std::make_unique<Shown<Struct, Owner>>();
    shown->owner = owner;
    shown->children.resize(node.children.size());
    for (std::size_t i = 0; i < node.children.size(); ++i) {
        show(shown->children[i], owner, node.children[i]);
        shown->pointers.push_back(&shown->children[i]);
    }
    if (node.dictionary != nullptr) show(shown->dictionary, owner, *node.dictionary);
    out.n_children = static_cast<std::int64_t>(node.children.size());
    out.children = shown->pointers.data();
    out.dictionary = node.dictionary != nullptr ? &shown->dictionary : nullptr;
    out.release = Shown<Struct, Owner>::release;
    out.private_data = shown.release();
}

void show_schema(ArrowSchema& out, const std::shared_ptr<const SchemaNode>& owner, const SchemaNode& node) {
    out.format = node.format.c_str();
    out.name = node.name.c_str();
    out.metadata = node.metadata ? node.metadata->data() : nullptr;
    out.flags = node.flags;
    show_tree(out, owner, node, show_schema);
}

void show_array(ArrowArray& out, const std::shared_ptr<const Batch>& owner, const ArrayNode& node) {
    out.length = node.length;
    out.null_count = node.null_count;
    out.offset = node.offset;
    out.n_buffers = static_cast<std::int64_t>(node.buffers.size());
    out.buffers = const_cast<const void**>(node.buffers.data());
    show_tree(out, owner, node, show_array);
}

struct Rows {
    std::shared_ptr<const TableParts> parts;
    std::size_t next = 0;
};
Rows& rows_of(ArrowArrayStream* stream) { return *static_cast<Rows*>(stream->private_data); }

int get_schema(ArrowArrayStream* stream, ArrowSchema* out) {
    const TableParts& parts = *rows_of(stream).parts;
    try {
        show_schema(*out, parts.schema, *parts.schema);
    } catch (const std::bad_alloc&) {
        return ENOMEM;
    }
    return 0;
}

int get_next(ArrowArrayStream* stream, ArrowArray* out) {
    Rows& rows = rows_of(stream);
    if (rows.next == rows.parts->batches.size()) {
        out->release = nullptr;
        return 0;
    }
    try {
        const auto& batch = rows.parts->batches[rows.next];
        show_array(*out, batch, batch->rows);
    } catch (const std::bad_alloc&) {
        return ENOMEM;
    }
    ++rows.next;
    return 0;
}

const char* get_last_error(ArrowArrayStream*) { return nullptr; }

void release_stream(ArrowArrayStream* stream) {
    delete &rows_of(stream);
    stream->release = nullptr;
}

// --- type functions: all with the GIL held, on any thread ----------------------------------------------------------

template <class Struct>
PyObject* new_capsule(std::unique_ptr<Struct> held, const char* name) {
    PyObject* capsule = PyCapsule_New(held.get(), name, [](PyObject* self) {
        auto* left = static_cast<Struct*>(PyCapsule_GetPointer(self, PyCapsule_GetName(self)));
        if (left->release != nullptr) left->release(left);
        delete left;
    });
    if (capsule != nullptr) (void)held.release();
    return capsule;
}

using Parts = std::shared_ptr<const TableParts>;
const TableParts& parts_of(PyObject* self) { return *unbox<Parts>(self); }

PyObject* arrow_c_schema(PyObject* self, PyObject*) {
    auto schema = std::make_unique<ArrowSchema>();
    show_schema(*schema, parts_of(self).schema, *parts_of(self).schema);
    return new_capsule(std::move(schema), "arrow_schema");
}

PyObject* arrow_c_stream(PyObject* self, PyObject* arguments, PyObject* named) {
    static const char* keywords[] = {"requested_schema", nullptr};
    PyObject* requested = nullptr;  // a wish: what is asked for is what there is, or the consumer casts
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "|O", const_cast<char**>(keywords), &requested)) return nullptr;
    auto stream = std::make_unique<ArrowArrayStream>();
    *stream = {get_schema, get_next, get_last_error, release_stream, new Rows{unbox<Parts>(self)}};
    return new_capsule(std::move(stream), "arrow_array_stream");
}

PyObject* get_num_rows(PyObject* self, void*) {
    long long count = 0;
    for (const auto& batch : parts_of(self).batches) count += batch->rows.length;
    return PyLong_FromLongLong(count);
}

PyObject* get_column_names(PyObject* self, void*) {
    Ref names(PyList_New(0));
    for (const SchemaNode& column : parts_of(self).schema->children) {
        const Ref name(
            PyUnicode_DecodeUTF8(column.name.data(), static_cast<Py_ssize_t>(column.name.size()), "replace"));
        if (!names || !name || PyList_Append(names.get(), name.get()) < 0) return nullptr;
    }
    return names.give();
}

PyObject* repr(PyObject* self) {
    const Ref names(get_column_names(self, nullptr)), rows(get_num_rows(self, nullptr));
    return names && rows ? PyUnicode_FromFormat("<isthmus.Table of %S rows, columns %R>", rows.get(), names.get())
                         : nullptr;
}

void dealloc(PyObject* self) {
    unbox<Parts>(self).~Parts();
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

// --- slot tables ---------------------------------------------------------------------------------------------------

PyMethodDef methods[] = {
    {"__arrow_c_schema__", arrow_c_schema, METH_NOARGS, "__arrow_c_schema__()\n--\n\nA capsule of its ArrowSchema."},
    {"__arrow_c_stream__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(arrow_c_stream)),
     METH_VARARGS | METH_KEYWORDS,
     "__arrow_c_stream__(requested_schema=None)\n--\n\nA capsule of an ArrowArrayStream over its rows."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"num_rows", get_num_rows, nullptr, "How many rows it has.", nullptr},
    {"column_names", get_column_names, nullptr, "What its columns are called.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc,
     const_cast<char*>("A table that came over the bus, where there is no pyarrow: any library that knows the "
                       "Arrow PyCapsule interface takes it as it lies.")},
    {Py_tp_dealloc, slot(dealloc)},
    {Py_tp_repr, slot(repr)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, nullptr},
};

}  // namespace

PyObject* new_table(State& state, std::shared_ptr<const TableParts> parts) {
    PyObject* table = state.table->tp_alloc(state.table, 0);
    if (table != nullptr) new (&unbox<Parts>(table)) Parts(std::move(parts));
    return table;
}

PyType_Spec table_spec = {"isthmus._isthmus.Table", sizeof(Boxed<Parts>), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace isthmus::python
