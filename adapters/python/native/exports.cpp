#include "exports.hpp"

#include <algorithm>
#include <new>
#include <numeric>

namespace isthmus::python {

// --- structure -----------------------------------------------------------------------------------------------

void ExportTable::set(const std::string& name, PyObject* callable, bool deferred, std::uint32_t parcels) {
    Ref old;
    {
        std::lock_guard lock(mutex_);
        const auto [at, is_new] = by_name_.try_emplace(name, static_cast<std::uint32_t>(entries_.size()));
        if (is_new) {
            Export& entry = entries_.emplace_back();
            entry.name = name;
            entry.callable = Py_NewRef(callable);
        } else {
            old = Ref(std::exchange(entries_[at->second].callable, Py_NewRef(callable)));
        }
        entries_[at->second].deferred.store(deferred, std::memory_order_relaxed);
        entries_[at->second].parcels.store(parcels, std::memory_order_relaxed);
        size_.store(entries_.size(), std::memory_order_release);
        if (!is_new) return;
        for (const auto& [by, grown] : watchers_) grown();
    }
}

void ExportTable::watch(const void* by, std::function<void()> grown) {
    std::lock_guard lock(mutex_);
    watchers_.emplace_back(by, std::move(grown));
}

void ExportTable::unwatch(const void* by) {
    std::lock_guard lock(mutex_);
    std::erase_if(watchers_, [by](const auto& watcher) { return watcher.first == by; });
}

Ref ExportTable::callable(const Export& entry) {
#ifdef Py_GIL_DISABLED
    std::lock_guard lock(mutex_);
#endif
    return Ref::to(entry.callable);
}

std::vector<std::string> ExportTable::names() {
    std::lock_guard lock(mutex_);
    std::vector<std::string> names;
    names.reserve(entries_.size());
    for (const Export& entry : entries_) names.push_back(entry.name);
    return names;
}

namespace {

/// How many letters have to be put in, left out or changed (Levenshtein).
std::size_t distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < a.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i + 1);
        for (std::size_t j = 0; j < b.size(); ++j) {
            const std::size_t changed = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, changed});
        }
    }
    return row.back();
}

}  // namespace

std::vector<std::string> ExportTable::close_to(std::string_view name) {
    constexpr std::size_t longest_name = 128, most = 3;
    if (name.size() > longest_name) return {};
    std::vector<std::pair<std::size_t, std::string>> close;
    for (std::string& other : names()) {
        if (is_system(other)) continue;
        const std::size_t far = distance(name, other);
        if (far <= std::max<std::size_t>(2, name.size() / 3) && far < name.size())
            close.emplace_back(far, std::move(other));
    }
    std::sort(close.begin(), close.end());
    std::vector<std::string> names;
    for (std::size_t i = 0; i < std::min(most, close.size()); ++i) names.push_back(std::move(close[i].second));
    return names;
}

Export* ExportTable::find(std::uint32_t index, std::string_view name, std::uint32_t& found) {
    std::lock_guard lock(mutex_);
    if (index == wire::name_only) {
        const auto at = by_name_.find(std::string(name));
        if (at == by_name_.end()) return nullptr;
        index = at->second;
    }
    found = index;
    return index < entries_.size() ? &entries_[index] : nullptr;
}

int ExportTable::traverse(visitproc visit, void* arg) {
    for (const Export& entry : entries_) Py_VISIT(entry.callable);
    return 0;
}

void ExportTable::clear() {
    for (Export& entry : entries_) {
        PyObject* nothing = Py_NewRef(Py_None);
        Py_XDECREF(std::exchange(entry.callable, nothing));
    }
}

ExportTable& export_table(PyObject* exports) { return unbox<ExportTable>(exports); }

// --- type functions: all with the GIL held, on any thread --------------------------------------------------------

namespace {

PyObject* make(PyTypeObject* type, PyObject*, PyObject*) {
    PyObject* self = type->tp_alloc(type, 0);
    if (self != nullptr) new (&unbox<ExportTable>(self)) ExportTable;
    return self;
}

int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    return unbox<ExportTable>(self).traverse(visit, arg);
}

int clear(PyObject* self) {
    unbox<ExportTable>(self).clear();
    return 0;
}

void dealloc(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    unbox<ExportTable>(self).~ExportTable();
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject* set(PyObject* self, PyObject* arguments) {
    const char* name;
    Py_ssize_t size;
    PyObject* callable;
    int mode = 0;
    unsigned int parcels = 0;
    if (!PyArg_ParseTuple(arguments, "s#O|iI", &name, &size, &callable, &mode, &parcels)) return nullptr;
    unbox<ExportTable>(self).set({name, static_cast<std::size_t>(size)}, callable, mode != 0, parcels);
    Py_RETURN_NONE;
}

PyObject* names(PyObject* self, PyObject*) {
    PyObject* list = PyList_New(0);
    for (const std::string& name : unbox<ExportTable>(self).names()) {
        if (is_system(name)) continue;
        Ref text(list != nullptr ? PyUnicode_FromStringAndSize(name.data(), static_cast<Py_ssize_t>(name.size()))
                                 : nullptr);
        if (!text || PyList_Append(list, text.get()) < 0) {
            Py_XDECREF(list);
            return nullptr;
        }
    }
    return list;
}

// --- slot tables ---------------------------------------------------------------------------------------------

PyMethodDef methods[] = {
    {"set", set, METH_VARARGS,
     "set(name, callable, mode=0, parcels=0)\n--\n\nMakes or replaces an export. Mode 1: Bus.runner performs its "
     "calls. "
     "The first `parcels` arguments come as Parcels."},
    {"names", names, METH_NOARGS,
     "names()\n--\n\nThe names, in the order in which they were set, but for those of the machinery (isthmus.…)."},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("The functions that a host offers.")},
    {Py_tp_new, slot(make)},
    {Py_tp_dealloc, slot(dealloc)},
    {Py_tp_traverse, slot(traverse)},
    {Py_tp_clear, slot(clear)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

}  // namespace

PyType_Spec exports_spec = {"isthmus._isthmus.Exports", sizeof(Boxed<ExportTable>), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slots};

}  // namespace isthmus::python
