// Counters as JavaScript reads them.
#include "function.hpp"

namespace isthmus::node {

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

}  // namespace isthmus::node
