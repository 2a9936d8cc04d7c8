// The functions that a host offers, by index and by name.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bus/bus.hpp"
#include "fork.hpp"
#include "python.hpp"

namespace isthmus::python {

/// Whether an export is part of the machinery: it is in no list, and programs can't take the name.
inline bool is_system(std::string_view name) { return name.starts_with("isthmus."); }

/// What a queue or topic brings, and what is said of its messages, whatever call it was begun in.
inline bool outlives_its_call(std::string_view name) {
    return name == "isthmus.queue.consume" || name == "isthmus.queue.settle" || name == "isthmus.topic.subscribe";
}

struct Export {
    std::string name;
    PyObject* callable = nullptr;           // owned; guarded by the GIL, or by the table's mutex where there is none
    std::atomic<bool> deferred{false};      // it is not performed on the dispatcher's thread
    std::atomic<std::uint32_t> parcels{0};  // so many arguments, the first ones, come as Parcels
    std::atomic<std::int32_t> wary{8};  // calls yet to come before which earlier answers are published: it may be slow
};

/// Only grows, so that an index and a pointer stay good.
class ExportTable {
public:
    /// Makes or replaces an export. GIL held.
    void set(const std::string& name, PyObject* callable, bool deferred, std::uint32_t parcels = 0);
    std::size_t size() const { return size_.load(std::memory_order_acquire); }
    /// Is called, with or without the GIL, whenever there is one more. `by` names it for unwatch.
    void watch(const void* by, std::function<void()> grown);
    void unwatch(const void* by);
    /// The callable, as a new reference. GIL held.
    Ref callable(const Export& entry);
    std::vector<std::string> names();
    /// The names that resemble one, the closest first, at most three.
    std::vector<std::string> close_to(std::string_view name);

    /// By index, else by name; null when there is none. No GIL needed.
    Export* find(std::uint32_t index, std::string_view name, std::uint32_t& found);

    int traverse(visitproc visit, void* arg);
    void clear();

private:
    ForkMutex mutex_;
    std::deque<Export> entries_;
    std::unordered_map<std::string, std::uint32_t> by_name_;
    std::vector<std::pair<const void*, std::function<void()>>> watchers_;
    std::atomic<std::size_t> size_{0};
};

/// Of an isthmus._isthmus.Exports.
ExportTable& export_table(PyObject* exports);

extern PyType_Spec exports_spec;

}  // namespace isthmus::python
