#include "connection.hpp"

#include <algorithm>
#include <cstring>
#include <exception>

#include "shared_memory.hpp"

namespace isthmus::node {

using namespace std::chrono_literals;
using peers::count;

namespace {

// Few calls in flight: each is shown at once. Many: the other side has work, and one store and one fence serve several.
constexpr std::int32_t few_in_flight = 16;
constexpr std::uint32_t flush_every = 32;
constexpr std::uint32_t attend_every = 64;  // drains, where every drain brings something

constexpr std::uint64_t id_of(std::uint32_t slot, std::uint32_t uses) {
    return std::uint64_t{uses} << slot_bits | slot;
}

Connection& of(napi_env env, napi_callback_info info, std::size_t* count = nullptr, napi_value* arguments = nullptr) {
    void* self = nullptr;
    napi_get_cb_info(env, info, count, arguments, nullptr, &self);
    return *static_cast<Connection*>(self);
}

/// What the core throws must not leave a native function.
template <class Work>
auto guarded(napi_env env, Work&& work) -> decltype(work()) {
    try {
        return work();
    } catch (const std::exception& error) {
        napi_throw_error(env, nullptr, error.what());
        return decltype(work())();
    }
}

napi_value number(napi_env env, double value) {
    napi_value result = nullptr;
    napi_create_double(env, value, &result);
    return result;
}

}  // namespace

bool is_terminated(napi_env env) {
    napi_value script = nullptr, result = nullptr;
    return napi_create_string_utf8(env, "0", 1, &script) != napi_ok || napi_run_script(env, script, &result) != napi_ok;
}

Connection::Connection(napi_env env, std::unique_ptr<Bus> bus, Lent lent, napi_value on_wake)
    : env_(env), bus_(std::move(bus)), control_(lent.control), descriptors_(lent.descriptors), inbox_(lent.inbox) {
    napi_create_reference(env, on_wake, 1, &on_wake_);
}

Connection::~Connection() = default;

bool Connection::keeps_loop() const {
    const auto loop = static_cast<Loop>(word(Word::loop));
    return loop == Loop::always || (loop == Loop::in_flight && awaits());
}

void Connection::flush() {
    unflushed_ = 0;
    bus_->flush();
}

void Connection::enter() {
    napi_handle_scope scope = nullptr;
    do {
        if (napi_open_handle_scope(env_, &scope) != napi_ok) return;
        napi_value function = nullptr, result = nullptr;
        if (napi_get_reference_value(env_, on_wake_, &function) == napi_ok)
            report(napi_make_callback(env_, nullptr, function, function, 0, nullptr, &result));
        napi_close_handle_scope(env_, scope);
    } while (!lost_.empty());
}

void Connection::call_on_wake() {
    napi_value function = nullptr, result = nullptr;
    do {
        if (napi_get_reference_value(env_, on_wake_, &function) != napi_ok) return;
        report(napi_call_function(env_, function, function, 0, nullptr, &result));
    } while (!lost_.empty());
}

/// An exception must not stay pending in a native callback: it is the program's own uncaught one.
void Connection::report(napi_status called) {
    napi_value error = nullptr;
    if (called == napi_ok) return;
    if (napi_get_and_clear_last_exception(env_, &error) == napi_ok) napi_fatal_exception(env_, error);
    lost_.clear();
}

// --- calls -------------------------------------------------------------------------------------------------

std::uint32_t Connection::target(const Name& name, const Link* link) const {
    for (const auto& [known, target] : name.targets) {
        if (known == link) return target;
    }
    return wire::name_only;
}

/// Sends what lies staged from firstCell, firstHeap and firstPayload on, and forgets the payloads.
Status Connection::send() {
    const std::uint32_t first = index(Word::firstPayload);
    Link* link = bus_ ? bus_->service() : nullptr;
    Status status = !bus_ ? Status::closed : link == nullptr ? Status::lost : Status::ok;
    const bool staged = std::size_t{index(Word::firstCell)} + index(Word::cells) <= cells_.size() &&
                        std::size_t{index(Word::firstHeap)} + index(Word::heapBytes) <= heap_.size();
    if (!staged || index(Word::name) >= names_.size() || index(Word::slot) >> slot_bits != 0) status = Status::corrupt;
    if (status == Status::ok) {
        const auto kind = static_cast<wire::Kind>(word(Word::kind));
        const bool is_call = kind == wire::Kind::call;
        const std::uint32_t slot = index(Word::slot);
        if (is_call && slot >= calls_.size()) calls_.resize(std::max<std::size_t>(64, 2 * std::size_t{slot}));
        const std::uint32_t uses = is_call ? calls_[slot].uses + 1 : 0;
        const Name& name = names_[index(Word::name)];
        payloads_.clear();
        for (std::size_t i = first; i < staged_.size(); ++i) payloads_.push_back(staged_[i].handle);

        wire::Draft draft;
        draft.kind = kind;
        draft.id = is_call ? id_of(slot, uses) : 0;
        draft.target = target(name, link);
        if (draft.target == wire::name_only) draft.name = name.text;
        if (real(Double::timeout) > 0)
            draft.deadline = static_cast<std::uint64_t>(deadline().time_since_epoch().count());
        draft.cells = cells_.subspan(index(Word::firstCell), index(Word::cells));
        draft.heap = heap_.subspan(index(Word::firstHeap), index(Word::heapBytes));
        draft.payloads = payloads_;
        status = link->submit(draft);
        if (status == Status::ok && is_call) calls_[slot] = {link, uses, index(Word::name)};
        ++unflushed_;
    }
    for (std::size_t i = first; i < staged_.size(); ++i) {
        if (staged_[i].own && bus_) (void)bus_->arena().release(staged_[i].handle.block, staged_[i].handle.generation);
    }
    staged_.resize(std::min<std::size_t>(staged_.size(), first));
    outcome(status);
    return status;
}

void Connection::submit(napi_env) {  // the isolate's thread; no lock
    if (send() != Status::ok) return;
    const bool later = wake_ && wake_->flushes() && word(Word::inFlight) >= few_in_flight && unflushed_ < flush_every;
    if (!later) flush();
    if (wake_) wake_->submitted();
}

napi_value Connection::call_and_wait(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock; blocks
    Connection& self = of(env, info);
    return guarded(env, [&]() -> napi_value { return self.send() == Status::ok ? self.await(env) : nullptr; });
}

napi_value Connection::wait(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock; blocks
    Connection& self = of(env, info);
    return guarded(env, [&] { return self.await(env); });
}

/// Until something has arrived, which is collected, or the time is out (timed_out), or the isolate is terminated.
napi_value Connection::await(napi_env env) {
    word(Word::frames) = 0;
    outcome(bus_ ? Status::ok : Status::closed);
    if (!bus_) return nullptr;
    const bool limited = real(Double::timeout) > 0;
    const auto until = limited ? deadline() : doorbell::Deadline::max();
    flush();  // also what has waited for the host to attach, or for room
    if (!bus_->spin(until)) {
        for (;;) {
            attend();
            if (!lost_.empty()) break;
            const auto now = doorbell::Clock::now();
            if (limited && now >= until) {
                outcome(Status::timed_out);
                break;
            }
            if (bus_->wait(std::min(until, now + 20ms)) || is_terminated(env)) break;
        }
        if (wake_) wake_->waited();
    }
    return collect(env);
}

doorbell::Deadline Connection::deadline() {
    const double milliseconds = std::min(real(Double::timeout), 1e12);
    return doorbell::Clock::now() + std::chrono::nanoseconds(static_cast<std::int64_t>(milliseconds * 1e6));
}

void Connection::cancel(napi_env) {  // the isolate's thread; no lock
    const std::uint32_t slot = index(Word::slot);
    if (!bus_ || slot >= calls_.size() || calls_[slot].link == nullptr) return;
    wire::Draft draft;
    draft.kind = wire::Kind::cancel;
    draft.id = id_of(slot, calls_[slot].uses);
    (void)calls_[slot].link->submit(draft);
    flush();
}

// --- answers -----------------------------------------------------------------------------------------------

std::int32_t* Connection::descriptor() { return descriptors_ + descriptor_words * word(Word::frames)++; }

void Connection::drop(std::span<const Handle> payloads) {
    for (const Handle& payload : payloads) (void)bus_->arena().release(payload.block, payload.generation);
}

/// Tells TypeScript of a frame that was copied to `base` on. False when it is nothing for TypeScript.
bool Connection::describe(const Bus::Received& received, const std::byte* base) {
    const wire::Draft& frame = received.frame;
    if (frame.kind != wire::Kind::reply && frame.kind != wire::Kind::error) {
        drop(frame.payloads);
        if (frame.kind == wire::Kind::call) {
            wire::Draft refusal;
            refusal.kind = wire::Kind::error;
            refusal.status = Status::not_exported;
            refusal.id = frame.id;
            (void)received.link->answer(refusal);
        }
        return false;
    }
    const auto slot = static_cast<std::uint32_t>(frame.id & ((1U << slot_bits) - 1));
    if (slot >= calls_.size() || calls_[slot].link != received.link || id_of(slot, calls_[slot].uses) != frame.id) {
        drop(frame.payloads);
        return false;
    }
    Call& call = calls_[slot];
    call.link = nullptr;
    if (Name& name = names_[call.name];
        frame.target != wire::name_only && target(name, received.link) == wire::name_only) {
        name.targets.emplace_back(received.link, frame.target);
    }
    for (const Handle& payload : frame.payloads) feel(payload.block, payload.bytes);

    std::int32_t* words = descriptor();
    const auto put = [&](Field field, auto value) {
        words[static_cast<std::uint32_t>(field)] = static_cast<std::int32_t>(value);
    };
    const auto distance = [base](const auto& span) {
        return span.empty() ? 0 : reinterpret_cast<const std::byte*>(span.data()) - base;
    };
    put(Field::kind, frame.kind);
    put(Field::status, frame.status);
    put(Field::slot, slot);
    put(Field::cells, distance(frame.cells) / 4);
    put(Field::cellCount, frame.cells.size());
    put(Field::heap, distance(frame.heap));
    put(Field::payloads, distance(frame.payloads) / 4);
    put(Field::payloadCount, frame.payloads.size());
    return true;
}

void Connection::describe_lost() {
    while (!lost_.empty() && index(Word::frames) < most_frames) {
        std::int32_t* words = descriptor();
        std::fill_n(words, descriptor_words, 0);
        words[static_cast<std::uint32_t>(Field::kind)] = static_cast<std::int32_t>(wire::Kind::error);
        words[static_cast<std::uint32_t>(Field::status)] = static_cast<std::int32_t>(Status::lost);
        words[static_cast<std::uint32_t>(Field::slot)] = static_cast<std::int32_t>(lost_.back());
        lost_.pop_back();
    }
}

void Connection::attend() {
    bus_->attend([this](Link& link, Status) {
        for (std::size_t slot = 0; slot < calls_.size(); ++slot) {
            if (calls_[slot].link != &link) continue;
            calls_[slot].link = nullptr;
            lost_.push_back(static_cast<std::uint32_t>(slot));
        }
        for (Name& name : names_) std::erase_if(name.targets, [&](const auto& known) { return known.first == &link; });
    });
}

/// Copies what has arrived to the inbox. A frame larger than the inbox is returned in a buffer of its own, and alone.
napi_value Connection::collect(napi_env env) {
    word(Word::frames) = 0;
    if (!bus_) return nullptr;
    if (++drains_ % attend_every == 0) attend();
    describe_lost();
    std::size_t at = 0;
    while (index(Word::frames) < most_frames) {
        const auto room = inbox_.subspan(at);
        auto received = bus_->receive(room);
        if (received.status == Status::ok) {
            if (describe(received, inbox_.data()))
                at += std::min<std::size_t>((received.bytes + 7) & ~std::size_t{7}, room.size());
            continue;
        }
        if (received.status == Status::empty) {
            if (word(Word::frames) > 0) break;
            attend();
            describe_lost();
            break;
        }
        if (word(Word::frames) > 0) break;
        void* data = nullptr;
        napi_value buffer = nullptr;
        if (napi_create_arraybuffer(env, received.bytes, &data, &buffer) != napi_ok) return nullptr;
        received = bus_->receive({static_cast<std::byte*>(data), received.bytes});
        if (received.status == Status::ok && describe(received, static_cast<std::byte*>(data))) return buffer;
    }
    return nullptr;
}

napi_value Connection::drain(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    Connection& self = of(env, info);
    return guarded(env, [&] { return self.collect(env); });
}

void Connection::settled(napi_env) {  // the isolate's thread; no lock
    if (wake_) wake_->settled();
}

void Connection::tick(napi_env) {  // the isolate's thread; the arena's mutex
    if (bus_) bus_->tick();
}

void Connection::delivered(napi_env) {  // the isolate's thread; no lock
    bool all = true;
    if (bus_) {
        flush();
        for (const auto& link : bus_->links()) all = all && (link->state() != Status::ok || link->delivered());
    }
    outcome(all ? Status::ok : Status::full);
}

// --- arrays ------------------------------------------------------------------------------------------------

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

/// The garbage collector feels a block as long as JavaScript has views of it, once for all of them.
void Connection::feel(std::uint32_t block, std::uint64_t bytes) {
    Felt& felt = felt_[block];
    if (felt.views++ > 0) return;
    felt.bytes = static_cast<std::int64_t>(bytes);
    std::int64_t all = 0;
    napi_adjust_external_memory(env_, felt.bytes, &all);
}

void Connection::feel_no_more(std::uint32_t block) {
    const auto felt = felt_.find(block);
    if (felt == felt_.end() || --felt->second.views > 0) return;
    std::int64_t all = 0;
    napi_adjust_external_memory(env_, -felt->second.bytes, &all);
    felt_.erase(felt);
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
    const std::size_t first = index(Word::firstPayload);
    for (std::size_t i = first; i < staged_.size(); ++i) {
        if (staged_[i].own && bus_) (void)bus_->arena().release(staged_[i].handle.block, staged_[i].handle.generation);
    }
    staged_.resize(std::min(staged_.size(), first));
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

// --- the rest ----------------------------------------------------------------------------------------------

napi_value Connection::intern(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    std::size_t count = 1;
    napi_value text = nullptr;
    Connection& self = of(env, info, &count, &text);
    return guarded(env, [&]() -> napi_value {
        std::size_t bytes = 0;
        if (napi_get_value_string_utf8(env, text, nullptr, 0, &bytes) != napi_ok) {
            napi_throw_type_error(env, nullptr, "the name of an export is a string");
            return nullptr;
        }
        std::string name(bytes, '\0');
        napi_get_value_string_utf8(env, text, name.data(), bytes + 1, &bytes);
        self.names_.push_back({std::move(name), {}});
        return number(env, static_cast<double>(self.names_.size() - 1));
    });
}

/// lend(cells, heap): where values are staged from now on. TypeScript keeps both alive.
napi_value Connection::lend(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    std::size_t count = 2;
    napi_value buffers[2] = {};
    Connection& self = of(env, info, &count, buffers);
    void* cells = nullptr;
    void* heap = nullptr;
    std::size_t cells_bytes = 0, heap_bytes = 0;
    if (napi_get_arraybuffer_info(env, buffers[0], &cells, &cells_bytes) != napi_ok ||
        napi_get_arraybuffer_info(env, buffers[1], &heap, &heap_bytes) != napi_ok) {
        napi_throw_type_error(env, nullptr, "two ArrayBuffers were expected");
        return nullptr;
    }
    self.cells_ = {static_cast<const wire::Cell*>(cells), cells_bytes / sizeof(wire::Cell)};
    self.heap_ = {static_cast<const std::byte*>(heap), heap_bytes};
    return nullptr;
}

namespace {

// clang-format off
#define ISTHMUS_COUNTERS(X)                                                                              \
    X(posts) X(replies) X(errors) X(frames_sent) X(frames_received) X(bytes_sent) X(bytes_received)      \
    X(bytes_copied) X(full) X(wakes) X(sleeps) X(spins) X(batches) X(gil_takes) X(leases_taken)          \
    X(leases_released) X(leases_refused) X(chunks_taken) X(chunks_returned) X(links_opened)              \
    X(links_lost) X(links_corrupt)
// clang-format on

napi_value counters_object(napi_env env, const layout::Counters& counters, bool answers) {
    napi_value object = nullptr;
    napi_create_object(env, &object);
    const auto put = [&](const char* name, std::uint64_t value) {
        napi_set_named_property(env, object, name, number(env, static_cast<double>(value)));
    };
    const auto load = [](const layout::Word64& counter) { return counter.load(std::memory_order_relaxed); };
    put("calls", answers ? load(counters.replies) + load(counters.errors) : load(counters.calls));
#define ISTHMUS_PUT(name) put(#name, load(counters.name));
    ISTHMUS_COUNTERS(ISTHMUS_PUT)
#undef ISTHMUS_PUT
    return object;
}

}  // namespace

/// [own counters, the host's or undefined]
napi_value Connection::stats(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    Connection& self = of(env, info);
    return guarded(env, [&]() -> napi_value {
        if (!self.bus_) return nullptr;
        napi_value pair = nullptr;
        napi_create_array(env, &pair);
        napi_set_element(env, pair, 0, counters_object(env, self.bus_->counters(), false));
        Link* link = self.bus_->service();
        const auto* host = link ? self.bus_->counters_of(link->ends().other) : nullptr;
        if (host != nullptr) napi_set_element(env, pair, 1, counters_object(env, *host, true));
        return pair;
    });
}

void Connection::leave() {
    if (auto wake = std::exchange(wake_, nullptr)) wake->close();
    bus_.reset();
    lost_.clear();
}

void Connection::close(napi_env env) {  // the isolate's thread; the arena's mutex
    leave();
    if (on_wake_ != nullptr) napi_delete_reference(env, std::exchange(on_wake_, nullptr));
}

template <void (Connection::*Member)(napi_env)>
napi_value Connection::plain(napi_env env, napi_callback_info info) {
    Connection& self = of(env, info);
    try {
        (self.*Member)(env);
    } catch (const std::exception& error) {
        napi_throw_error(env, nullptr, error.what());
    }
    return nullptr;
}

napi_value Connection::expose(napi_env env, const std::shared_ptr<Connection>& connection, bool by_thread) {
    napi_value object = nullptr;
    napi_create_object(env, &object);
    const auto method = [&](const char* name, napi_callback function) {
        napi_value value = nullptr;
        napi_create_function(env, name, NAPI_AUTO_LENGTH, function, connection.get(), &value);
        const auto free_box = [](napi_env, void* box, void*) { delete static_cast<std::shared_ptr<Connection>*>(box); };
        auto* box = new std::shared_ptr<Connection>(connection);
        if (napi_add_finalizer(env, value, box, free_box, nullptr, nullptr) != napi_ok) delete box;
        napi_set_named_property(env, object, name, value);
    };
    method("submit", plain<&Connection::submit>);
    method("callAndWait", call_and_wait);
    method("wait", wait);
    method("cancel", plain<&Connection::cancel>);
    method("drain", drain);
    method("intern", intern);
    method("lend", lend);
    method("allocate", plain<&Connection::allocate>);
    method("stage", plain<&Connection::stage>);
    method("stageCopy", stage_copy);
    method("unstage", plain<&Connection::unstage>);
    method("release", plain<&Connection::release>);
    method("copyOut", copy_out);
    method("memory", memory);
    method("settled", plain<&Connection::settled>);
    method("tick", plain<&Connection::tick>);
    method("delivered", plain<&Connection::delivered>);
    method("stats", stats);
    method("close", plain<&Connection::close>);
    connection->wake_ = by_thread ? wake_by_thread(env, connection) : wake_by_uv(env, connection);
    return object;
}

}  // namespace isthmus::node
