// The calls that are performed elsewhere than on the dispatcher's thread: handed to Bus.runner, answered by Bus.complete.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "hooks.hpp"
#include "values.hpp"

namespace isthmus::python {

inline constexpr std::uint64_t most_items = 256;         // of a frame
inline constexpr std::uint64_t most_item_bytes = 65536;  // likewise, but for one that is larger by itself

/// What Bus.complete is told of a call, and what a sink is told. RESULT, RAISED, ITEMS and END in Python.
enum class What : int { result, exception, items, end };

class Deferred {
public:
    struct Entry {
        Link* link;
        std::uint64_t id;
        std::uint32_t index;
        std::uint16_t flags;   // of the call's frame
        std::uint32_t caller;  // its slot
        bool is_post, tells_origin;
        bool cancelled = false;
        std::string name;
        PyObject* info = nullptr;  // owned: the Call
    };
    struct Answer {
        std::uint64_t token;
        wire::Kind kind;  // reply, error or item
        Status status = Status::ok;
        Outgoing out;
        std::uint32_t items = 0;  // in out
    };
    struct Grant {
        std::uint64_t token;
        std::uint32_t count;
    };

    // --- any thread ---

    /// What has to be known for encoding an outcome; nothing when the token is not (or no longer) in use.
    std::optional<Entry> find(std::uint64_t token);
    /// For the dispatcher to send. False when the bus was left: then the answer is still the caller's.
    bool push(Answer& answer);
    /// Has the canceller told of a call whose stream has failed on its way.
    void give_up(std::uint64_t token);
    bool has_answers() const { return has_answers_.load(std::memory_order_relaxed); }

    // --- the dispatcher's thread ---

    std::uint64_t add(Entry entry);
    std::size_t size() const { return size_.load(std::memory_order_relaxed); }
    void remove(std::uint64_t token, Memory& memory);
    void send(Bus& bus, Memory& memory);
    /// A cancel or credit frame. False when the call is none of these.
    bool cancel(const Link& link, std::uint64_t id);
    bool grant(const Link& link, std::uint64_t id, std::uint32_t count);
    /// The link is gone: its calls are cancelled, and nobody is answered.
    void forget(const Link& link, Memory& memory);
    void end(Bus& bus, Memory& memory);

    bool has_news() const { return has_news_.load(std::memory_order_relaxed); }
    void take_news(std::vector<std::uint64_t>& cancelled, std::vector<Grant>& grants);

private:
    using Place = std::pair<const Link*, std::uint64_t>;
    struct Hash {
        std::size_t operator()(const Place& place) const {
            return std::hash<const void*>()(place.first) ^
                   std::hash<std::uint64_t>()(place.second * 0x9e3779b97f4a7c15);
        }
    };
    void mark_cancelled(std::uint64_t token, Entry& entry);

    std::mutex mutex_;  // guards what follows
    std::uint64_t last_token_ = 0;
    bool ended_ = false;
    std::unordered_map<std::uint64_t, Entry> entries_;
    std::atomic<std::size_t> size_{0};  // of entries_
    std::vector<Answer> answers_;
    std::unordered_map<Place, std::uint64_t, Hash> tokens_;
    std::vector<std::uint64_t> cancelled_;
    std::vector<Grant> grants_;
    std::atomic<bool> has_answers_{false}, has_news_{false};
};

/// Bus.complete(list of (token, what, value)): GIL held, any thread.
PyObject* complete(PyObject* self, PyObject* outcomes);

}  // namespace isthmus::python
