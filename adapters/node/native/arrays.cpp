// Arrays in bus memory: blocks and their uses, and what a message that is being staged takes along of them.
#include <cstring>
#include <utility>

#include "function.hpp"
#include "shared_memory.hpp"

namespace isthmus::node {

using peers::count;

void Connection::allocate(napi_env) {  // the isolate's thread; the arena's mutex
    if (!bus_) return outcome(Status::closed);
    const auto bytes = static_cast<std::uint64_t>(real(Double::bytes));
    const auto made = bus_->arena().allocate(bytes);
    outcome(made.status);
    if (made.status != Status::ok) return;
    std::memset(bus_->arena().at(made.handle), 0, bytes);
    word(Word::block) = static_cast<std::int32_t>(made.handle.block);
    word(Word::generation) = static_cast<std::int32_t>(made.handle.generation);
    real(Double::offset) = static_cast<double>(made.handle.offset);
    feel(made.handle.block, bytes);
}

/// Why the allocation of Double::bytes that ended in Word::status was refused, for a person.
napi_value Connection::shortage(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    Connection& self = of(env, info);
    return guarded(env, [&]() -> napi_value {
        napi_value result = nullptr;
        if (!self.bus_) return nullptr;
        const std::string text = self.bus_->shortage(static_cast<Status>(self.word(Word::status)),
                                                     static_cast<std::uint64_t>(self.real(Double::bytes)));
        napi_create_string_utf8(env, text.data(), text.size(), &result);
        return result;
    });
}

/// The garbage collector feels a block as long as JavaScript has views of it, once for all of them.
void Connection::feel(std::uint32_t block, std::uint64_t bytes) {
    Felt& felt = felt_[block];
    if (felt.views++ > 0) return;
    felt.bytes = static_cast<std::int64_t>(bytes);
    std::int64_t all = 0;
    napi_adjust_external_memory(env_, felt.bytes, &all);
    felt_bytes_ += felt.bytes;
    felt_more_ = true;
}

void Connection::feel_no_more(std::uint32_t block) {
    const auto felt = felt_.find(block);
    if (felt == felt_.end() || --felt->second.views > 0) return;
    std::int64_t all = 0;
    napi_adjust_external_memory(env_, -felt->second.bytes, &all);
    felt_bytes_ -= felt->second.bytes;
    felt_.erase(felt);
}

/// An idle isolate collects no garbage, and arrays that it has dropped would keep their memory. So it feels, for a moment, as
/// much as makes V8 begin to mark, which it then does in small steps.
void Connection::nudge(napi_env env) {  // the isolate's thread; no lock
    constexpr std::int64_t worth_it = 16 << 20, soft_limit = 65 << 20;
    if (felt_bytes_ < worth_it || !std::exchange(felt_more_, false)) return;
    std::int64_t all = 0;
    napi_adjust_external_memory(env, soft_limit, &all);
    napi_adjust_external_memory(env, -soft_limit, &all);
}

/// Stages a piece of the arena that this isolate uses. The payload's index is in `block`.
void Connection::stage(napi_env) {  // the isolate's thread; the arena's mutex
    if (!bus_) return outcome(Status::closed);
    const auto offset = static_cast<std::uint64_t>(real(Double::offset));
    const auto bytes = static_cast<std::uint64_t>(real(Double::bytes));
    const Handle handle = bus_->arena().find(bus_->arena().memory().base + offset, bytes);
    outcome(handle.bytes == 0 ? Status::stale : Status::ok);
    if (handle.bytes == 0) return;
    word(Word::block) = static_cast<std::int32_t>(staged_.size());
    staged_.push_back({handle, false});
}

/// Stages a copy of a typed array that lies elsewhere.
napi_value Connection::stage_copy(napi_env env, napi_callback_info info) {  // the isolate's thread; the arena's mutex
    std::size_t count_of = 1;
    napi_value view = nullptr;
    Connection& self = of(env, info, &count_of, &view);
    return guarded(env, [&]() -> napi_value {
        void* data = nullptr;
        std::size_t length = 0;
        napi_typedarray_type type{};
        if (napi_get_typedarray_info(env, view, &type, &length, &data, nullptr, nullptr) != napi_ok ||
            type != napi_uint8_array) {
            napi_throw_type_error(env, nullptr, "a Uint8Array was expected");
            return nullptr;
        }
        if (!self.bus_) {
            self.outcome(Status::closed);
            return nullptr;
        }
        const auto made = self.bus_->arena().allocate(length);
        self.outcome(made.status);
        if (made.status != Status::ok) return nullptr;
        std::memcpy(self.bus_->arena().at(made.handle), data, length);
        count(self.bus_->counters().bytes_copied, length);
        self.word(Word::block) = static_cast<std::int32_t>(self.staged_.size());
        self.staged_.push_back({made.handle, true});
        return nullptr;
    });
}

/// A private copy of a piece of the arena that this isolate uses.
napi_value Connection::copy_out(napi_env env, napi_callback_info info) {  // the isolate's thread; the arena's mutex
    Connection& self = of(env, info);
    return guarded(env, [&]() -> napi_value {
        const auto bytes = static_cast<std::uint64_t>(self.real(Double::bytes));
        const std::byte* from =
            self.bus_ ? self.bus_->arena().memory().base + static_cast<std::uint64_t>(self.real(Double::offset))
                      : nullptr;
        void* data = nullptr;
        napi_value buffer = nullptr;
        if (from == nullptr || self.bus_->arena().find(from, bytes).bytes == 0 ||
            napi_create_arraybuffer(env, bytes, &data, &buffer) != napi_ok) {
            napi_throw_error(env, nullptr, "the array was released already");
            return nullptr;
        }
        std::memcpy(data, from, bytes);
        count(self.bus_->counters().bytes_copied, bytes);
        return buffer;
    });
}

/// Forgets payloads from firstPayload on, of a message that will not be sent.
void Connection::unstage(napi_env) {  // the isolate's thread; the arena's mutex
    forget_staged();
}

/// One use of a block less.
void Connection::release(napi_env) {  // the isolate's thread; the arena's mutex
    feel_no_more(index(Word::block));
    if (!bus_) return outcome(Status::closed);
    outcome(bus_->arena().release(index(Word::block), index(Word::generation)));
}

napi_value Connection::memory(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    Connection& self = of(env, info);
    return guarded(env, [&] { return self.bus_ ? share_arena(env, *self.bus_) : nullptr; });
}

}  // namespace isthmus::node
