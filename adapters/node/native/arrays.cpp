// Arrays in bus memory: blocks and their uses, and what a message that is being staged takes along of them.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>

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
    if (!made.is_zero && word(Word::uncleared) == 0) std::memset(bus_->arena().at(made.handle), 0, bytes);
    word(Word::block) = static_cast<std::int32_t>(made.handle.block);
    word(Word::generation) = static_cast<std::int32_t>(made.handle.generation);
    real(Double::offset) = static_cast<double>(made.handle.offset);
    feel(made.handle.block, bytes);
}

/// An allocation off the isolate's thread, which finds pages for it, clears them, and maps them where JavaScript sees them.
struct Connection::Ahead {
    std::shared_ptr<Connection> connection;
    std::byte* shown;  // where JavaScript sees the arena
    std::uint64_t bytes;
    Arena::Allocation made{Status::closed, {}};
    napi_async_work work = nullptr;
    napi_deferred deferred = nullptr;

    static void allocate(napi_env, void* data) {  // a thread of the pool; the connection's ahead_
        Ahead& self = *static_cast<Ahead*>(data);
        std::lock_guard lock(self.connection->ahead_);
        if (!self.connection->bus_) return;
        Arena& arena = self.connection->bus_->arena();
        self.made = arena.allocate(self.bytes);
        if (self.made.status != Status::ok) return;
        std::byte* const own = arena.at(self.made.handle);
        // In steps: the isolate's thread waits for each when it maps, unmaps or leaves. Where the kernel can't populate, first touches do.
        constexpr std::uint64_t step = 2 << 20;
        std::byte* const first = self.shown + self.made.handle.offset / layout::page_bytes * layout::page_bytes;
        for (std::uint64_t at = 0; at < self.bytes && !self.connection->leaves_; at += step) {
            const std::uint64_t bytes = std::min(step, self.bytes - at);
            if (!self.made.is_zero) std::memset(own + at, 0, bytes);
            ::madvise(first + at, bytes, MADV_POPULATE_WRITE);
        }
    }

    /// Resolves to [status, block, generation, offset].
    static void tell(napi_env env, napi_status, void* data) {  // the isolate's thread
        const std::unique_ptr<Ahead> self(static_cast<Ahead*>(data));
        napi_handle_scope scope = nullptr;
        if (napi_open_handle_scope(env, &scope) != napi_ok) return;
        const bool left = !self->connection->bus_;
        const Arena::Allocation& made = self->made;
        napi_value told = nullptr;
        if (!left && made.status == Status::ok) self->connection->feel(made.handle.block, self->bytes);
        if (napi_create_array(env, &told) == napi_ok) {
            const double values[] = {
                static_cast<double>(left ? Status::closed : made.status), static_cast<double>(made.handle.block),
                static_cast<double>(made.handle.generation), static_cast<double>(made.handle.offset)};
            for (std::uint32_t i = 0; i < std::size(values); ++i)
                napi_set_element(env, told, i, number(env, values[i]));
            napi_resolve_deferred(env, self->deferred, told);
        }
        napi_delete_async_work(env, self->work);
        napi_close_handle_scope(env, scope);
    }
};

/// A promise of an allocation of Double::bytes, for the view of the arena's first byte that is given.
napi_value Connection::allocate_ahead(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    std::size_t count_of = 1;
    napi_value view = nullptr;
    Connection& self = of(env, info, &count_of, &view);
    return guarded(env, [&]() -> napi_value {
        void* shown = nullptr;
        napi_value name = nullptr, promise = nullptr;
        auto ahead = std::make_unique<Ahead>();
        if (napi_get_typedarray_info(env, view, nullptr, nullptr, &shown, nullptr, nullptr) != napi_ok ||
            napi_create_string_utf8(env, "isthmus.allocate", NAPI_AUTO_LENGTH, &name) != napi_ok ||
            napi_create_promise(env, &ahead->deferred, &promise) != napi_ok)
            return nullptr;
        ahead->connection = self.shared_from_this();
        ahead->shown = static_cast<std::byte*>(shown);
        ahead->bytes = static_cast<std::uint64_t>(self.real(Double::bytes));
        if (napi_create_async_work(env, nullptr, name, Ahead::allocate, Ahead::tell, ahead.get(), &ahead->work) !=
                napi_ok ||
            napi_queue_async_work(env, ahead->work) != napi_ok)
            return nullptr;
        (void)ahead.release();  // `tell` has it from now on
        return promise;
    });
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
    nudges_left_ = 2;  // what is dropped while V8 marks is found when it marks again
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
    if (felt_bytes_ < worth_it || nudges_left_ == 0) return;
    --nudges_left_;
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
        if (from == nullptr || self.bus_->arena().find(from, bytes).bytes == 0) {
            napi_throw_error(env, nullptr, "the array was released already");
            return nullptr;
        }
        void* data = nullptr;
        const napi_value buffer = make_buffer(env, bytes, &data);
        if (buffer == nullptr) return nullptr;
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
