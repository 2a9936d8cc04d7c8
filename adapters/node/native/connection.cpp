#include "connection.hpp"

#include <exception>

#include "function.hpp"

namespace isthmus::node {

bool is_terminated(napi_env env) {
    napi_value script = nullptr, result = nullptr;
    return napi_create_string_utf8(env, "0", 1, &script) != napi_ok || napi_run_script(env, script, &result) != napi_ok;
}

Connection::Connection(napi_env env, std::unique_ptr<Bus> bus, Lent lent, napi_value on_wake)
    : env_(env), bus_(std::move(bus)), control_(lent.control), descriptors_(lent.descriptors), inbox_(lent.inbox) {
    napi_create_reference(env, on_wake, 1, &on_wake_);
    word(Word::selfSlot) = static_cast<std::int32_t>(bus_->slot());
    word(Word::selfGeneration) = static_cast<std::int32_t>(bus_->generation());
}

Connection::~Connection() = default;

bool Connection::keeps_loop() const {
    const auto loop = static_cast<Loop>(word(Word::loop));
    return loop == Loop::always || (loop == Loop::in_flight && (word(Word::inFlight) > 0 || word(Word::exported) > 0));
}

void Connection::flush() {
    unflushed_ = 0;
    bus_->flush();
    prompt_->give_way();
}

void Connection::enter() {
    napi_handle_scope scope = nullptr;
    bool returned = false;
    entered_ = true;
    do {
        if (napi_open_handle_scope(env_, &scope) != napi_ok) break;
        napi_value function = nullptr, result = nullptr;
        returned = napi_get_reference_value(env_, on_wake_, &function) == napi_ok &&
                   report(napi_make_callback(env_, nullptr, function, function, 0, nullptr, &result));
        napi_close_handle_scope(env_, scope);
    } while (returned && (!lost_.empty() || !gone_.empty()));
    entered_ = false;
}

void Connection::call_on_wake() {
    napi_value function = nullptr, result = nullptr;
    bool returned = false;
    entered_ = true;
    do {
        returned = napi_get_reference_value(env_, on_wake_, &function) == napi_ok &&
                   report(napi_call_function(env_, function, function, 0, nullptr, &result));
    } while (returned && (!lost_.empty() || !gone_.empty()));
    entered_ = false;
}

/// An exception must not stay pending in a native callback: it is the program's own uncaught one. False when there was one;
/// what is left to be told is told in the event loop's next turn.
bool Connection::report(napi_status called) {
    napi_value error = nullptr;
    if (called == napi_ok) return true;
    if (napi_get_and_clear_last_exception(env_, &error) == napi_ok) napi_fatal_exception(env_, error);
    return false;
}

/// Shows what was submitted, in the middle of a batch.
void Connection::flush_now(napi_env) {  // the isolate's thread; no lock
    if (bus_) flush();
}

/// Calls have arrived while the isolate was blocked, and wait for a turn of the event loop.
void Connection::rouse(napi_env) {  // the isolate's thread; no lock
    if (bus_ && wake_) wake_->waited();
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

/// Status closed when the bus has ended, for whatever reason.
void Connection::standing(napi_env) {  // the isolate's thread; no lock
    outcome(bus_ && !bus_->closed() ? Status::ok : Status::closed);
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

void Connection::leave() {
    if (auto wake = std::exchange(wake_, nullptr)) wake->close();
    {
        leaves_ = true;
        std::lock_guard lock(ahead_);
        bus_.reset();
    }
    prompt_.reset();
    lost_.clear();
    fates_.clear();
    gone_.clear();
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
        // Defined rather than set: V8 makes a slow dictionary of an object that more than a dozen members were set on.
        napi_property_descriptor property{};
        property.utf8name = name;
        property.value = value;
        napi_define_properties(env, object, 1, &property);
    };
    method("submit", plain<&Connection::submit>);
    method("answer", plain<&Connection::answer>);
    method("callAndWait", call_and_wait);
    method("wait", wait);
    method("cancel", plain<&Connection::cancel>);
    method("credit", plain<&Connection::credit>);
    method("flush", plain<&Connection::flush_now>);
    method("drain", drain);
    method("intern", intern);
    method("stick", stick);
    method("publish", publish);
    method("giveBack", plain<&Connection::give_back>);
    method("takeFree", take_free);
    method("label", label);
    method("fate", fate);
    method("exports", exports);
    method("lend", lend);
    method("allocate", plain<&Connection::allocate>);
    method("allocateAhead", allocate_ahead);
    method("stage", plain<&Connection::stage>);
    method("stageCopy", stage_copy);
    method("unstage", plain<&Connection::unstage>);
    method("release", plain<&Connection::release>);
    method("copyOut", copy_out);
    method("memory", memory);
    method("rouse", plain<&Connection::rouse>);
    method("settled", plain<&Connection::settled>);
    method("tick", plain<&Connection::tick>);
    method("nudge", plain<&Connection::nudge>);
    method("delivered", plain<&Connection::delivered>);
    method("standing", plain<&Connection::standing>);
    method("shortage", shortage);
    method("stats", stats);
    method("close", plain<&Connection::close>);
    connection->wake_ = by_thread ? wake_by_thread(env, connection) : wake_by_uv(env, connection);
    return object;
}

}  // namespace isthmus::node
