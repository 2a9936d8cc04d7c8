// A thread polls the bell and has the isolate called through a thread-safe function. The bell stays armed between turns; after
// it has rung, the thread waits until the isolate has taken it back.
#include <poll.h>

#include <semaphore>
#include <stdexcept>
#include <thread>

#include "connection.hpp"

namespace isthmus::node {

namespace {

class ThreadWake final : public Wake {
public:
    ThreadWake(napi_env env, const std::shared_ptr<Connection>& connection)
        : env_(env), connection_(connection), bell_(connection->bus()->bell()), stop_(doorbell::open()) {
        napi_value name = nullptr;
        napi_create_string_utf8(env, "isthmus", NAPI_AUTO_LENGTH, &name);
        if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, turn,
                                            &function_) != napi_ok) {
            throw std::runtime_error("the engine refused a thread-safe function");
        }
        napi_unref_threadsafe_function(env, function_);
        napi_add_env_cleanup_hook(env, end_of_environment, this);
    }

    void start(std::shared_ptr<ThreadWake> self) {
        thread_ = std::thread([this] { watch(); });
        self_ = std::move(self);
        arm();
    }

    bool flushes() const override { return false; }

    void submitted() override {
        if (!kept_) settled();
    }

    void settled() override {
        const bool keep = connection_->keeps_loop();
        if (keep == kept_) return;
        kept_ = keep;
        keep ? napi_ref_threadsafe_function(env_, function_) : napi_unref_threadsafe_function(env_, function_);
    }

    void waited() override { arm(); }

    void close() override {
        if (closed_) return;
        closed_ = true;
        doorbell::ring(stop_.get());
        taken_.release();
        thread_.join();
        napi_remove_env_cleanup_hook(env_, end_of_environment, this);
        napi_release_threadsafe_function(function_, napi_tsfn_abort);
        const auto last = std::move(self_);
    }

private:
    /// The isolate's thread, while its environment ends.
    static void end_of_environment(void* data) {
        auto connection = static_cast<ThreadWake*>(data)->connection_;
        connection->leave();
    }

    /// The watching thread; no lock, no JavaScript.
    void watch() {
        for (;;) {
            pollfd doors[] = {{bell_, POLLIN, 0}, {stop_.get(), POLLIN, 0}};
            if (::poll(doors, 2, -1) < 0) continue;
            if (doors[1].revents != 0) return;
            napi_call_threadsafe_function(function_, &rung_, napi_tsfn_nonblocking);
            taken_.acquire();
        }
    }

    /// Something is there already, so that the bell will not ring for it.
    void arm() {
        if (connection_->bus()->arm() || connection_->has_work())
            napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
    }

    /// The isolate's thread, in a turn of its event loop.
    static void turn(napi_env env, napi_value, void* context, void* rung) {
        if (env == nullptr) return;
        auto& wake = *static_cast<ThreadWake*>(context);
        if (wake.closed_) return;
        const auto self = wake.self_;
        Bus& bus = *wake.connection_->bus();
        bus.disarm();
        if (rung != nullptr) {
            bus.silence();
            wake.taken_.release();
        }
        wake.connection_->call_on_wake();
        if (wake.closed_) return;
        wake.connection_->flush();
        wake.settled();
        wake.arm();
    }

    napi_env env_;
    std::shared_ptr<Connection> connection_;
    std::shared_ptr<ThreadWake> self_;
    int bell_;
    Fd stop_;
    napi_threadsafe_function function_ = nullptr;
    std::thread thread_;
    std::counting_semaphore<> taken_{0};
    char rung_ = 0;  // its address tells the thread's calls from the isolate's own
    bool closed_ = false;
    bool kept_ = false;
};

}  // namespace

std::shared_ptr<Wake> wake_by_thread(napi_env env, const std::shared_ptr<Connection>& connection) {
    auto wake = std::make_shared<ThreadWake>(env, connection);
    wake->start(wake);
    return wake;
}

}  // namespace isthmus::node
