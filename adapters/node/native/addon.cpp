// What the addon exports: join(), and every number that TypeScript needs to know. No state outlives its environment.
#include <napi.h>

#include <cstdlib>
#include <memory>
#include <span>
#include <string>

#include "connection.hpp"
#include "shared_memory.hpp"

namespace isthmus::node {

namespace {

using namespace std::chrono_literals;

/// Asks for a place on a thread of the pool, and takes it on the isolate's own. The C interface, without exceptions: an
/// isolate that is being terminated refuses every call, and node-addon-api would throw what nobody can catch.
class Joining {
public:
    static napi_value begin(napi_env env, std::string bus, rendezvous::Who who, double timeout, napi_value buffers,
                            bool by_thread) {
        auto self = std::make_unique<Joining>();
        self->bus_ = std::move(bus);
        self->who_ = std::move(who);
        self->timeout_ = timeout;
        self->by_thread_ = by_thread;
        napi_value promise = nullptr, name = nullptr;
        if (napi_create_promise(env, &self->deferred_, &promise) != napi_ok ||
            napi_create_reference(env, buffers, 1, &self->buffers_) != napi_ok ||
            napi_create_string_utf8(env, "isthmus.join", NAPI_AUTO_LENGTH, &name) != napi_ok ||
            napi_create_async_work(env, nullptr, name, ask, take, self.get(), &self->work_) != napi_ok ||
            napi_queue_async_work(env, self->work_) != napi_ok) {
            return nullptr;
        }
        (void)self.release();  // take() has it
        return promise;
    }

private:
    static void ask(napi_env, void* data) {  // a thread of the pool
        auto& self = *static_cast<Joining*>(data);
        try {
            const auto wait = std::chrono::nanoseconds(static_cast<std::int64_t>(self.timeout_ * 1e6));
            self.invitation_ = rendezvous::ask(self.bus_, self.who_, {doorbell::Clock::now() + wait});
        } catch (const Error& error) {
            self.status_ = error.status();
            self.what_ = error.what();
        } catch (const std::exception& error) {
            self.status_ = Status::refused;
            self.what_ = error.what();
        }
    }

    static void take(napi_env env, napi_status, void* data) {  // the isolate's thread
        const std::unique_ptr<Joining> self(static_cast<Joining*>(data));
        napi_handle_scope scope = nullptr;
        if (napi_open_handle_scope(env, &scope) != napi_ok) return;
        // A worker that was terminated meanwhile gets no place: the invitation is closed with this object.
        if (!is_terminated(env)) self->settle(env);
        napi_delete_reference(env, self->buffers_);
        napi_delete_async_work(env, self->work_);
        napi_close_handle_scope(env, scope);
    }

    void settle(napi_env env) {
        if (status_ == Status::ok) {
            try {
                const napi_value connection = connect(env);
                if (connection != nullptr) napi_resolve_deferred(env, deferred_, connection);
                return;
            } catch (const Error& error) {
                status_ = error.status();
                what_ = error.what();
            } catch (const std::exception& error) {
                status_ = Status::refused;
                what_ = error.what();
            }
        }
        napi_value message = nullptr, error = nullptr, status = nullptr;
        if (napi_create_string_utf8(env, what_.data(), what_.size(), &message) == napi_ok &&
            napi_create_error(env, nullptr, message, &error) == napi_ok &&
            napi_create_double(env, static_cast<double>(status_), &status) == napi_ok &&
            napi_set_named_property(env, error, "status", status) == napi_ok) {
            napi_reject_deferred(env, deferred_, error);
        }
    }

    /// Null when the environment refuses, because it is at its end.
    napi_value connect(napi_env env) {
        napi_value buffers = nullptr, on_wake = nullptr;
        if (napi_get_reference_value(env, buffers_, &buffers) != napi_ok ||
            napi_get_named_property(env, buffers, "onWake", &on_wake) != napi_ok) {
            return nullptr;
        }
        const auto lent = [&](const char* name) -> std::span<std::byte> {
            napi_value buffer = nullptr;
            void* bytes = nullptr;
            std::size_t size = 0;
            if (napi_get_named_property(env, buffers, name, &buffer) != napi_ok ||
                napi_get_arraybuffer_info(env, buffer, &bytes, &size) != napi_ok) {
                return {};
            }
            return {static_cast<std::byte*>(bytes), size};
        };
        const auto control = lent("control"), descriptors = lent("descriptors"), inbox = lent("inbox");
        if (control.empty() || descriptors.empty() || inbox.empty()) return nullptr;
        auto connection =
            std::make_shared<Connection>(env, Bus::join(std::move(invitation_)),
                                         Connection::Lent{reinterpret_cast<std::int32_t*>(control.data()),
                                                          reinterpret_cast<std::int32_t*>(descriptors.data()), inbox},
                                         on_wake);
        return Connection::expose(env, connection, by_thread_);
    }

    napi_async_work work_ = nullptr;
    napi_deferred deferred_ = nullptr;
    napi_ref buffers_ = nullptr;
    std::string bus_;
    rendezvous::Who who_;
    double timeout_ = 0;
    bool by_thread_ = false;
    rendezvous::Invitation invitation_;
    Status status_ = Status::ok;
    std::string what_;
};

/// join(bus, label, milliseconds, {control, descriptors, inbox, onWake}): a promise of a connection's functions. It rejects
/// with an Error that has a `status`.
Napi::Value join(const Napi::CallbackInfo& info) {  // the isolate's thread
    const Napi::Env env = info.Env();
    const auto versions = env.Global().Get("process").As<Napi::Object>().Get("versions").As<Napi::Object>();
    rendezvous::Who who;
    who.kind = versions.Has("bun") ? PeerKind::bun : versions.Has("deno") ? PeerKind::deno : PeerKind::node;
    who.label = info[1].As<Napi::String>();
    const char* wake = std::getenv("ISTHMUS_WAKE");
    const bool by_thread = who.kind != PeerKind::node || (wake != nullptr && std::string(wake) == "thread");
    const double timeout = info[2].As<Napi::Number>();
    return {env, Joining::begin(env, info[0].As<Napi::String>(), std::move(who), timeout, info[3], by_thread)};
}

/// Defined rather than set: V8 makes a slow dictionary of an object that more than a dozen members were set on.
Napi::Object numbers(Napi::Env env, std::initializer_list<std::pair<const char*, double>> pairs) {
    auto object = Napi::Object::New(env);
    for (const auto& [name, value] : pairs)
        object.DefineProperty(Napi::PropertyDescriptor::Value(name, Napi::Number::New(env, value), napi_enumerable));
    return object;
}

#define ISTHMUS_NUMBER(Enum, name) {#name, static_cast<double>(Enum::name)},

Napi::Object constants(Napi::Env env) {
    auto object = Napi::Object::New(env);
    const auto put = [&](const char* name, std::initializer_list<std::pair<const char*, double>> pairs) {
        object.Set(name, numbers(env, pairs));
    };
#define ISTHMUS_WORD(name) ISTHMUS_NUMBER(Word, name)
#define ISTHMUS_DOUBLE(name) {#name, doubles_at / 8.0 + static_cast<double>(Double::name)},
#define ISTHMUS_FIELD(name) ISTHMUS_NUMBER(Field, name)
    put("words", {ISTHMUS_WORDS(ISTHMUS_WORD)});
    put("doubles", {ISTHMUS_DOUBLES(ISTHMUS_DOUBLE)});
    put("fields", {ISTHMUS_FIELDS(ISTHMUS_FIELD)});
#define X(name) ISTHMUS_NUMBER(wire::Kind, name)
    put("kinds", {X(call) X(post) X(reply) X(error) X(cancel) X(item) X(credit)});
#undef X
#define X(name) ISTHMUS_NUMBER(wire::Tag, name)
    put("tags", {X(null) X(boolean) X(integer) X(real) X(bigint) X(text) X(bytes) X(list) X(object) X(map) X(set)
                     X(date) X(array) X(extent) X(reference) X(slice) X(tuple) X(table) X(pickle)});
#undef X
#define X(name) ISTHMUS_NUMBER(wire::DType, name)
    put("dtypes", {X(none) X(boolean) X(int8) X(uint8) X(int16) X(uint16) X(int32) X(uint32) X(int64) X(uint64)
                       X(float16) X(float32) X(float64) X(complex64) X(complex128) X(clamped8)});
#undef X
#define X(name) ISTHMUS_NUMBER(Status, name)
    put("statuses", {X(ok) X(full) X(too_large) X(no_memory) X(over_quota) X(lost) X(corrupt) X(stale) X(timed_out)
                         X(not_exported) X(no_bus) X(closed) X(cancelled)});
#undef X
#define X(name) ISTHMUS_NUMBER(Loop, name)
    put("loops", {X(in_flight) X(always) X(never)});
#undef X
    put("references", {{"callable", wire::reference_callable},
                       {"iterable", wire::reference_iterable},
                       {"async", wire::reference_async},
                       {"exception", wire::reference_exception}});
    put("frames", {{"streams", wire::frame_streams},
                   {"blocks", wire::frame_blocks},
                   {"keeps", wire::frame_keeps},
                   {"references", wire::frame_references},
                   {"lends", wire::frame_lends}});
    put("targets", {{"nameOnly", static_cast<std::int32_t>(wire::name_only)},
                    {"onObject", static_cast<std::int32_t>(wire::on_object)},
                    {"operation", static_cast<std::int32_t>(wire::operation)}});
    put("sticky", {{"not", Bus::not_sticky}, {"byCaller", Bus::by_caller}});
    put("peers", {{"any", any_peer}, {"gone", kind_gone}, {"most", layout::max_peers}});
    put("flags", {{"leased", wire::cell_leased},
                  {"fortran", wire::cell_fortran},
                  {"ascii", wire::cell_ascii},
                  {"moved", wire::cell_moved},
                  {"kwargs", wire::cell_kwargs},
                  {"strided", wire::cell_strided},
                  {"typed", wire::cell_typed}});
    put("sizes", {{"control", control_bytes},
                  {"descriptorWords", descriptor_words},
                  {"mostFrames", most_frames},
                  {"inbox", inbox_bytes},
                  {"leasedFrom", leased_from},
                  {"cell", sizeof(wire::Cell)},
                  {"handle", sizeof(Handle)},
                  {"depth", wire::max_depth},
                  {"slots", 1U << slot_bits}});
    auto sentences = Napi::Array::New(env);
    for (std::uint8_t status = 0; status <= static_cast<std::uint8_t>(Status::over_quota); ++status) {
        sentences.Set(status, std::string(sentence(static_cast<Status>(status))));
    }
    object.Set("sentences", sentences);
    return object;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
    exports.Set("join", Napi::Function::New(env, join, "join"));
    exports.Set("constants", constants(env));
    exports.Set("wrapsMemory", wraps_memory());
    return exports;
}

}  // namespace

}  // namespace isthmus::node

static Napi::Object isthmus_init(Napi::Env env, Napi::Object exports) { return isthmus::node::init(env, exports); }

NODE_API_MODULE(isthmus, isthmus_init)
