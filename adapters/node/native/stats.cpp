// Counters, and who has what of the memory, as JavaScript reads them.
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

napi_value memory_object(napi_env env, const Bus& bus) {
    const Census now = bus.census();
    const auto put = [env](napi_value object, const char* name, std::uint64_t value) {
        napi_set_named_property(env, object, name, number(env, static_cast<double>(value)));
    };
    napi_value object = nullptr, peers = nullptr;
    napi_create_object(env, &object);
    napi_create_array(env, &peers);
    put(object, "bytes", now.bytes);
    put(object, "quota", bus.quota());
    put(object, "free", now.free);
    put(object, "longest", now.longest);
    put(object, "leased", now.leased);
    put(object, "orphaned", now.orphaned);
    napi_set_named_property(env, object, "peers", peers);
    std::uint32_t listed = 0;
    for (std::uint32_t slot = 0; slot < layout::max_peers; ++slot) {
        if (bus.counters_of(slot) == nullptr) continue;
        napi_value peer = nullptr, name = nullptr;
        const std::string label = bus.label(slot);
        napi_create_object(env, &peer);
        napi_create_string_utf8(env, label.data(), label.size(), &name);
        napi_set_named_property(env, peer, "name", name);
        put(peer, "pid", bus.peer(slot).pid);
        put(peer, "owned", now.peers[slot].owned);
        put(peer, "leased", now.peers[slot].leased);
        napi_set_element(env, peers, listed++, peer);
    }
    return object;
}

}  // namespace

/// [own counters, who has what of the memory, the host's counters or undefined]
napi_value Connection::stats(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    Connection& self = of(env, info);
    return guarded(env, [&]() -> napi_value {
        if (!self.bus_) return nullptr;
        napi_value told = nullptr;
        napi_create_array(env, &told);
        napi_set_element(env, told, 0, counters_object(env, self.bus_->counters(), false));
        napi_set_element(env, told, 1, memory_object(env, *self.bus_));
        Link* link = self.bus_->service();
        const auto* host = link ? self.bus_->counters_of(link->ends().other) : nullptr;
        if (host != nullptr) napi_set_element(env, told, 2, counters_object(env, *host, true));
        return told;
    });
}

}  // namespace isthmus::node
