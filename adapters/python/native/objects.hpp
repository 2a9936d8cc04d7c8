// What this peer lends to others, and what it holds of theirs. bus/lending.hpp tells how long a lent object lives.
//
// An own object stays in the table while the core counts uses of it (it is lent), and while a message on its way needs it (it is
// pinned): one that is not sent yet, or one that was received and not decoded yet.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "bus/bus.hpp"
#include "python.hpp"

namespace isthmus::python {

/// The mutex is held for moments and never while the GIL is wanted, nor while Python objects are made or dropped.
class Objects {
public:
    explicit Objects(const Bus& bus);

    std::uint32_t slot() const { return slot_; }
    std::uint32_t generation() const { return generation_; }
    bool owns(const wire::Cell& reference) const {
        return wire::owner_of(reference) == slot_ && reference.count == generation_;
    }
    const layout::Peer& peer(std::uint32_t slot) const { return segment_->peer(slot); }
    /// The Python object Bus, which lives while its messages are read; set before it serves.
    PyObject* bus = nullptr;

    // --- own objects ---

    /// The id of an object, the same for as long as it is in the table; pinned once more. GIL held.
    std::uint64_t pin(PyObject* object);
    /// The object; null when it is not in the table (any more). GIL held.
    Ref find(std::uint64_t id);
    /// Pins, or unpins, what a received frame names of this peer's own. Any thread, with or without the GIL.
    void pin_all(const wire::Draft& frame);
    void unpin_all(const wire::Draft& frame);
    /// Unpins what was to be sent; the core counts it now if it `was_sent`. Likewise.
    void unpin(std::uint64_t id, bool was_sent);
    /// The core counts these no more. Likewise.
    void free(const std::vector<std::uint64_t>& ids);
    std::size_t size();

    // --- others' objects ---

    struct Key {
        std::uint64_t bits;
        std::uint32_t generation;
        bool operator==(const Key&) const = default;
    };
    /// What stands for the object here, if it lives. GIL held.
    Ref living(const Key& key);
    /// `weak` is a weak reference to it, `by` the Reference in it. GIL held.
    void remember(const Key& key, Ref weak, const void* by);
    /// When `by` is the one that was remembered. GIL held.
    void forget(const Key& key, const void* by);

    struct Return {
        Key key;
        std::uint32_t uses;
    };
    /// To be given back by the peer's thread; true when it has to be woken for that. Any thread, with or without the GIL.
    bool give_back(const Key& key, std::uint32_t uses);
    bool has_returns() const { return has_returns_.load(std::memory_order_relaxed); }
    /// The peer's thread.
    void send_returns(Bus& bus);

    // --- what has to wait for the GIL ---

    void bury(PyObject* owned);
    bool has_buried() const { return has_buried_.load(std::memory_order_relaxed); }
    /// GIL held.
    void drop_buried();
    /// The peer has left: nobody refers to anything any more. GIL held.
    void clear();

private:
    struct Entry {
        PyObject* object;  // owned
        std::uint32_t pins;
        bool lent;
    };
    struct Proxy {
        PyObject* weak;  // owned
        const void* by;
    };
    struct Hash {
        std::size_t operator()(const Key& key) const {
            return std::hash<std::uint64_t>()(key.bits ^ std::uint64_t{key.generation} << 24);
        }
    };
    void drop_if_unused(std::unordered_map<std::uint64_t, Entry>::iterator at);
    template <class Function>
    void each_own(const wire::Draft& frame, Function&& function);

    const std::shared_ptr<const Segment> segment_;
    const std::uint32_t slot_, generation_;
    std::mutex mutex_;  // guards what follows
    std::uint64_t last_id_ = 0;
    std::unordered_map<std::uint64_t, Entry> by_id_;
    std::unordered_map<PyObject*, std::uint64_t> ids_;
    std::unordered_map<Key, Proxy, Hash> proxies_;
    std::vector<Return> returns_;
    std::vector<PyObject*> buried_;
    std::atomic<bool> has_returns_{false}, has_buried_{false};
};

}  // namespace isthmus::python
