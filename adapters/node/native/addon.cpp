// What the addon exports: join(), and every number that TypeScript needs to know. No state outlives its environment.
#include <napi.h>

#include <cstdlib>
#include <string>

#include "connection.hpp"

namespace isthmus::node {

namespace {

using namespace std::chrono_literals;

Napi::Error to_js(Napi::Env env, Status status, const std::string& what) {
    auto error = Napi::Error::New(env, what);
    error.Set("status", static_cast<double>(status));
    return error;
}

/// Asks for a place on a thread of the pool, and takes it on the isolate's own.
class Joining : public Napi::AsyncWorker {
public:
    Joining(Napi::Env env, std::string bus, rendezvous::Who who, double timeout, Napi::Object buffers, bool by_thread)
        : Napi::AsyncWorker(env, "isthmus.join"),
          promise_(Napi::Promise::Deferred::New(env)),
          bus_(std::move(bus)),
          who_(std::move(who)),
          timeout_(timeout),
          buffers_(Napi::Persistent(buffers)),
          by_thread_(by_thread) {}

    Napi::Promise promise() const { return promise_.Promise(); }

    void Execute() override {  // a thread of the pool
        try {
            const auto wait = std::chrono::nanoseconds(static_cast<std::int64_t>(timeout_ * 1e6));
            invitation_ = rendezvous::ask(bus_, who_, doorbell::Clock::now() + wait);
        } catch (const Error& error) {
            status_ = error.status();
            SetError(error.what());
        }
    }

    void OnOK() override {  // the isolate's thread
        Napi::HandleScope scope(Env());
        // A worker that was terminated meanwhile gets no place: the invitation is closed with this object.
        if (is_terminated(Env())) return;
        try {
            Napi::Object buffers = buffers_.Value();
            auto control = buffers.Get("control").As<Napi::ArrayBuffer>();
            auto descriptors = buffers.Get("descriptors").As<Napi::ArrayBuffer>();
            auto inbox = buffers.Get("inbox").As<Napi::ArrayBuffer>();
            auto connection = std::make_shared<Connection>(
                Env(), Bus::join(std::move(invitation_)),
                Connection::Lent{static_cast<std::int32_t*>(control.Data()),
                                 static_cast<std::int32_t*>(descriptors.Data()),
                                 {static_cast<std::byte*>(inbox.Data()), inbox.ByteLength()}},
                buffers.Get("onWake"));
            promise_.Resolve(Napi::Value(Env(), Connection::expose(Env(), connection, by_thread_)));
        } catch (const Error& error) {
            promise_.Reject(to_js(Env(), error.status(), error.what()).Value());
        } catch (const std::exception& error) {
            promise_.Reject(to_js(Env(), Status::refused, error.what()).Value());
        }
    }

    void OnError(const Napi::Error& error) override {  // the isolate's thread
        if (is_terminated(Env())) return;
        promise_.Reject(to_js(Env(), status_, error.Message()).Value());
    }

private:
    Napi::Promise::Deferred promise_;
    std::string bus_;
    rendezvous::Who who_;
    double timeout_;
    Napi::ObjectReference buffers_;
    bool by_thread_;
    rendezvous::Invitation invitation_;
    Status status_ = Status::ok;
};

/// join(bus, label, milliseconds, {control, descriptors, inbox, onWake}): a promise of a connection's functions.
Napi::Value join(const Napi::CallbackInfo& info) {  // the isolate's thread
    const Napi::Env env = info.Env();
    const auto versions = env.Global().Get("process").As<Napi::Object>().Get("versions").As<Napi::Object>();
    rendezvous::Who who;
    who.kind = versions.Has("bun") ? PeerKind::bun : versions.Has("deno") ? PeerKind::deno : PeerKind::node;
    who.label = info[1].As<Napi::String>();
    const char* wake = std::getenv("ISTHMUS_WAKE");
    const bool by_thread = who.kind != PeerKind::node || (wake != nullptr && std::string(wake) == "thread");
    auto* joining = new Joining(env, info[0].As<Napi::String>(), std::move(who), info[2].As<Napi::Number>(),
                                info[3].As<Napi::Object>(), by_thread);
    const auto promise = joining->promise();
    joining->Queue();
    return promise;
}

Napi::Object numbers(Napi::Env env, std::initializer_list<std::pair<const char*, double>> pairs) {
    auto object = Napi::Object::New(env);
    for (const auto& [name, value] : pairs) object.Set(name, value);
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
    put("kinds", {X(call) X(post) X(reply) X(error)});
#undef X
#define X(name) ISTHMUS_NUMBER(wire::Tag, name)
    put("tags", {X(null) X(boolean) X(integer) X(real) X(bigint) X(text) X(bytes) X(list) X(object) X(map) X(set)
                     X(date) X(array) X(extent)});
#undef X
#define X(name) ISTHMUS_NUMBER(wire::DType, name)
    put("dtypes", {X(none) X(boolean) X(int8) X(uint8) X(int16) X(uint16) X(int32) X(uint32) X(int64) X(uint64)
                       X(float16) X(float32) X(float64) X(complex64) X(complex128) X(clamped8)});
#undef X
#define X(name) ISTHMUS_NUMBER(Status, name)
    put("statuses", {X(ok) X(full) X(too_large) X(no_memory) X(lost) X(corrupt) X(stale) X(timed_out) X(not_exported)
                         X(no_bus) X(closed) X(busy)});
#undef X
#define X(name) ISTHMUS_NUMBER(Loop, name)
    put("loops", {X(in_flight) X(always) X(never)});
#undef X
    put("flags", {{"leased", wire::cell_leased},
                  {"fortran", wire::cell_fortran},
                  {"ascii", wire::cell_ascii},
                  {"moved", wire::cell_moved},
                  {"kwargs", wire::cell_kwargs}});
    put("sizes", {{"control", control_bytes},
                  {"descriptorWords", descriptor_words},
                  {"mostFrames", most_frames},
                  {"inbox", inbox_bytes},
                  {"leasedFrom", leased_from},
                  {"cell", sizeof(wire::Cell)},
                  {"handle", sizeof(Handle)},
                  {"depth", wire::max_depth},
                  {"slots", 1U << slot_bits}});
    auto itemBytes = Napi::Array::New(env);
    for (std::uint8_t dtype = 0; dtype <= static_cast<std::uint8_t>(wire::DType::clamped8); ++dtype) {
        itemBytes.Set(dtype, wire::item_bytes(static_cast<wire::DType>(dtype)));
    }
    object.Set("itemBytes", itemBytes);
    auto sentences = Napi::Array::New(env);
    for (std::uint8_t status = 0; status <= static_cast<std::uint8_t>(Status::unsafe); ++status) {
        sentences.Set(status, std::string(sentence(static_cast<Status>(status))));
    }
    object.Set("sentences", sentences);
    return object;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
    exports.Set("join", Napi::Function::New(env, join, "join"));
    exports.Set("constants", constants(env));
    return exports;
}

}  // namespace

}  // namespace isthmus::node

static Napi::Object isthmus_init(Napi::Env env, Napi::Object exports) { return isthmus::node::init(env, exports); }

NODE_API_MODULE(isthmus, isthmus_init)
