// libuv's functions are looked up in the program that has loaded the addon; uv.h gives their types alone.
//
//   prepare   the loop is about to sleep: show what was submitted; if answers are awaited, look for them a little, and settle
//             them right here; then arm the bell, or, if there is more to do, keep the loop from sleeping (idle)
//   poll      the bell rings
//   check     the loop is awake: disarm, settle what has arrived
//
// The handles are unreferenced; the poll is referenced while the connection is to keep the loop alive.
#include <dlfcn.h>
#include <uv.h>

#include <array>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#include "connection.hpp"

namespace isthmus::node {

using namespace std::chrono_literals;

namespace {

constexpr auto longest_look = 50us;   // for one answer
constexpr auto longest_turn = 100us;  // of answers and what is done with them, before timers and I/O have their turn

struct Uv {
#define ISTHMUS_UV(name) decltype(&::uv_##name) name = find<decltype(&::uv_##name)>("uv_" #name);
    ISTHMUS_UV(handle_size)
    ISTHMUS_UV(prepare_init)
    ISTHMUS_UV(prepare_start)
    ISTHMUS_UV(check_init)
    ISTHMUS_UV(check_start)
    ISTHMUS_UV(idle_init)
    ISTHMUS_UV(idle_start)
    ISTHMUS_UV(idle_stop)
    ISTHMUS_UV(poll_init)
    ISTHMUS_UV(poll_start)
    ISTHMUS_UV(ref)
    ISTHMUS_UV(unref)
    ISTHMUS_UV(close)
#undef ISTHMUS_UV

    template <class Function>
    static Function find(const char* name) {
        void* found = ::dlsym(RTLD_DEFAULT, name);
        if (found == nullptr) throw std::runtime_error(std::string("this program has no ") + name);
        return reinterpret_cast<Function>(found);
    }
};

class UvWake final : public Wake {
public:
    UvWake(napi_env env, const std::shared_ptr<Connection>& connection) : connection_(connection) {
        uv_loop_t* loop = nullptr;
        if (napi_get_uv_event_loop(env, &loop) != napi_ok) throw std::runtime_error("this thread has no event loop");
        prepare_ = make<uv_prepare_t>(UV_PREPARE);
        check_ = make<uv_check_t>(UV_CHECK);
        idle_ = make<uv_idle_t>(UV_IDLE);
        poll_ = make<uv_poll_t>(UV_POLL);
        uv_.prepare_init(loop, prepare_);
        uv_.check_init(loop, check_);
        uv_.idle_init(loop, idle_);
        if (uv_.poll_init(loop, poll_, connection->bus()->bell()) != 0) {
            // The others were initialised, and are in the loop's list until they are closed.
            for (uv_handle_t* handle : handles()) {
                if (handle != as_handle(poll_)) uv_.close(handle, [](uv_handle_t* closed) { std::free(closed); });
            }
            std::free(poll_);
            throw std::runtime_error("the event loop can't poll the bus's doorbell");
        }
        uv_.prepare_start(prepare_, [](uv_prepare_t* handle) { of(handle).prepare(); });
        uv_.check_start(check_, [](uv_check_t* handle) { of(handle).check(); });
        uv_.poll_start(poll_, UV_READABLE, [](uv_poll_t* handle, int, int) { of(handle).rung(); });
        for (uv_handle_t* handle : handles()) uv_.unref(handle);
        napi_add_async_cleanup_hook(env, end_of_environment, this, &hook_);
    }

    /// Held by itself until libuv has let go of the last handle.
    void hold(std::shared_ptr<UvWake> self) { self_ = std::move(self); }

    bool flushes() const override { return true; }

    void submitted() override {  // the isolate's thread
        fresh_ = true;
        if (!kept_ && connection_->keeps_loop()) settled();
    }

    void settled() override {
        const bool keep = connection_->keeps_loop();
        if (keep == kept_) return;
        kept_ = keep;
        keep ? uv_.ref(as_handle(poll_)) : uv_.unref(as_handle(poll_));
    }

    void waited() override {}

    void close() override {
        if (closed_) return;
        closed_ = true;
        open_ = 4;
        for (uv_handle_t* handle : handles()) uv_.close(handle, [](uv_handle_t* closed) { of(closed).gone(closed); });
    }

private:
    template <class Handle>
    Handle* make(uv_handle_type type) {
        auto* handle = static_cast<Handle*>(std::calloc(1, uv_.handle_size(type)));
        if (handle == nullptr) throw std::bad_alloc();
        handle->data = this;
        return handle;
    }
    template <class Handle>
    static UvWake& of(Handle* handle) {
        return *static_cast<UvWake*>(handle->data);
    }
    template <class Handle>
    static uv_handle_t* as_handle(Handle* handle) {
        return reinterpret_cast<uv_handle_t*>(handle);
    }
    std::array<uv_handle_t*, 4> handles() const {
        return {as_handle(prepare_), as_handle(check_), as_handle(idle_), as_handle(poll_)};
    }

    /// The isolate's thread, while its environment ends: after this hook no native function of it runs.
    static void end_of_environment(napi_async_cleanup_hook_handle, void* data) {
        auto connection = static_cast<UvWake*>(data)->connection_;
        connection->leave();
    }

    void gone(uv_handle_t* handle) {
        std::free(handle);
        if (--open_ > 0) return;
        napi_remove_async_cleanup_hook(hook_);
        const auto last = std::move(self_);
    }

    /// Calls JavaScript. False when the connection is closed now.
    bool enter() {
        connection_->enter();
        if (closed_) return false;
        connection_->flush();
        return true;
    }

    void prepare() {
        if (closed_) return;
        const auto self = self_;
        Bus& bus = *connection_->bus();
        connection_->flush();
        bool more = false;
        if (connection_->awaits() && fresh_) {
            auto now = doorbell::Clock::now();
            const auto end = now + longest_turn;
            for (;;) {
                // One look for each submission: while the host computes, the loop is not held up again and again.
                if (!bus.spin(now + longest_look)) {
                    fresh_ = false;
                    break;
                }
                if (!enter()) return;
                if (!connection_->awaits()) break;
                now = doorbell::Clock::now();
                if (now >= end) {
                    more = true;
                    break;
                }
            }
        }
        if (!more) more = bus.arm() || connection_->has_work();
        if (more != idling_) {
            idling_ = more;
            if (more) {
                uv_.idle_start(idle_, [](uv_idle_t*) {});
            } else {
                uv_.idle_stop(idle_);
            }
        }
        settled();
    }

    void check() {
        if (closed_) return;
        const auto self = self_;
        Bus& bus = *connection_->bus();
        bus.disarm();
        if (!bus.ready() && !connection_->has_work()) return;
        fresh_ = true;
        if (enter()) settled();
    }

    void rung() {
        if (!closed_) connection_->bus()->silence();
    }

    Uv uv_;
    std::shared_ptr<Connection> connection_;
    std::shared_ptr<UvWake> self_;
    uv_prepare_t* prepare_;
    uv_check_t* check_;
    uv_idle_t* idle_;
    uv_poll_t* poll_;
    napi_async_cleanup_hook_handle hook_ = nullptr;
    int open_ = 0;
    bool closed_ = false;
    bool fresh_ = false;   // something was submitted or has arrived since the last look found nothing
    bool idling_ = false;  // the loop is kept from sleeping
    bool kept_ = false;    // the loop is kept alive
};

}  // namespace

std::shared_ptr<Wake> wake_by_uv(napi_env env, const std::shared_ptr<Connection>& connection) {
    auto wake = std::make_shared<UvWake>(env, connection);
    wake->hold(wake);
    return wake;
}

}  // namespace isthmus::node
