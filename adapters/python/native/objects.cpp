#include "objects.hpp"

namespace isthmus::python {

Objects::Objects(const Bus& bus)
    : segment_(std::static_pointer_cast<const Segment>(bus.mapping())),
      slot_(bus.slot()),
      generation_(layout::generation_of(bus.peer(bus.slot()).life.load(std::memory_order_relaxed))) {}

// --- own objects -----------------------------------------------------------------------------------------------------

std::uint64_t Objects::pin(PyObject* object) {
    std::lock_guard lock(mutex_);
    const auto [at, is_new] = ids_.try_emplace(object, last_id_ + 1);
    if (is_new) {
        ++last_id_;
        by_id_.emplace(last_id_, Entry{Py_NewRef(object), 0, false});
    }
    ++by_id_.at(at->second).pins;
    return at->second;
}

Ref Objects::find(std::uint64_t id) {
    std::lock_guard lock(mutex_);
    const auto at = by_id_.find(id);
    return at == by_id_.end() ? Ref() : Ref::to(at->second.object);
}

void Objects::drop_if_unused(std::unordered_map<std::uint64_t, Entry>::iterator at) {
    if (at->second.pins != 0 || at->second.lent) return;
    ids_.erase(at->second.object);
    buried_.push_back(at->second.object);
    has_buried_.store(true, std::memory_order_relaxed);
    by_id_.erase(at);
}

template <class Function>
void Objects::each_own(const wire::Draft& frame, Function&& function) {
    if ((frame.flags & wire::frame_references) == 0) return;
    std::lock_guard lock(mutex_);
    for (const wire::Cell& cell : frame.cells) {
        if (cell.tag != wire::Tag::reference || !owns(cell)) continue;
        if (const auto at = by_id_.find(wire::id_of(cell)); at != by_id_.end()) function(at);
    }
}

void Objects::pin_all(const wire::Draft& frame) {
    each_own(frame, [](auto at) { ++at->second.pins; });
}

void Objects::unpin_all(const wire::Draft& frame) {
    each_own(frame, [this](auto at) {
        --at->second.pins;
        drop_if_unused(at);
    });
}

void Objects::unpin(std::uint64_t id, bool was_sent) {
    std::lock_guard lock(mutex_);
    const auto at = by_id_.find(id);
    if (at == by_id_.end()) return;
    --at->second.pins;
    if (was_sent) at->second.lent = true;
    drop_if_unused(at);
}

void Objects::free(const std::vector<std::uint64_t>& ids) {
    std::lock_guard lock(mutex_);
    for (const std::uint64_t id : ids) {
        const auto at = by_id_.find(id);
        if (at == by_id_.end()) continue;
        at->second.lent = false;
        drop_if_unused(at);
    }
}

std::size_t Objects::size() {
    std::lock_guard lock(mutex_);
    return by_id_.size();
}

// --- others' objects -------------------------------------------------------------------------------------------------

Ref Objects::living(const Key& key) {
    Ref weak;
    {
        std::lock_guard lock(mutex_);
        const auto at = proxies_.find(key);
        if (at == proxies_.end()) return {};
        weak = Ref::to(at->second.weak);
    }
#if PY_VERSION_HEX >= 0x030d0000
    PyObject* proxy = nullptr;
    if (PyWeakref_GetRef(weak.get(), &proxy) < 0) PyErr_Clear();
    return Ref(proxy);
#else
    PyObject* proxy = PyWeakref_GetObject(weak.get());
    return proxy == Py_None ? Ref() : Ref::to(proxy);
#endif
}

void Objects::remember(const Key& key, Ref weak, const void* by) {
    Ref before;
    std::lock_guard lock(mutex_);
    Proxy& proxy = proxies_[key];
    before = Ref(std::exchange(proxy.weak, weak.give()));
    proxy.by = by;
}

void Objects::forget(const Key& key, const void* by) {
    Ref weak;
    {
        std::lock_guard lock(mutex_);
        const auto at = proxies_.find(key);
        if (at == proxies_.end() || at->second.by != by) return;
        weak = Ref(at->second.weak);
        proxies_.erase(at);
    }
}

bool Objects::give_back(const Key& key, std::uint32_t uses) {
    std::lock_guard lock(mutex_);
    returns_.push_back({key, uses});
    return !has_returns_.exchange(true, std::memory_order_relaxed);
}

void Objects::send_returns(Bus& bus) {
    if (!has_returns()) return;
    std::vector<Return> returns;
    {
        std::lock_guard lock(mutex_);
        returns.swap(returns_);
        has_returns_.store(false, std::memory_order_relaxed);
    }
    for (const Return& each : returns) {
        const wire::Cell cell{wire::Tag::reference, wire::DType::none, 0, each.key.generation, each.key.bits};
        bus.give_back(wire::owner_of(cell), each.key.generation, wire::id_of(cell), each.uses);
    }
}

// --- what has to wait for the GIL ------------------------------------------------------------------------------------

void Objects::bury(PyObject* owned) {
    if (owned == nullptr) return;
    std::lock_guard lock(mutex_);
    buried_.push_back(owned);
    has_buried_.store(true, std::memory_order_relaxed);
}

void Objects::drop_buried() {
    if (!has_buried()) return;
    std::vector<PyObject*> buried;
    {
        std::lock_guard lock(mutex_);
        buried.swap(buried_);
        has_buried_.store(false, std::memory_order_relaxed);
    }
    for (PyObject* object : buried) Py_DECREF(object);
}

void Objects::clear() {
    {
        std::lock_guard lock(mutex_);
        for (const auto& [id, entry] : by_id_) buried_.push_back(entry.object);
        by_id_.clear();
        ids_.clear();
        has_buried_.store(true, std::memory_order_relaxed);
    }
    drop_buried();
}

}  // namespace isthmus::python
