// How an event loop that sleeps notices the bus.
#pragma once

#include <node_api.h>

#include <memory>

namespace isthmus::node {

class Connection;

/// Belongs to one connection; all members are called on the isolate's thread.
class Wake {
public:
    virtual ~Wake() = default;
    /// Whether everything that was submitted is flushed before the loop sleeps.
    virtual bool flushes() const = 0;
    /// A call was submitted: its answer is to be noticed, and the loop kept alive for it.
    virtual void submitted() = 0;
    /// Looks again at whether the loop is to be kept alive.
    virtual void settled() = 0;
    /// The isolate has waited by itself, so the bell may be disarmed.
    virtual void waited() = 0;
    /// Touches neither the connection's bus nor its JavaScript from now on.
    virtual void close() = 0;
};

/// A poll on the bell, armed right before the loop sleeps and disarmed right after. Node.
std::shared_ptr<Wake> wake_by_uv(napi_env env, const std::shared_ptr<Connection>& connection);
/// A thread that polls the bell, and a thread-safe function. Where there is no libuv: Bun, Deno.
std::shared_ptr<Wake> wake_by_thread(napi_env env, const std::shared_ptr<Connection>& connection);

}  // namespace isthmus::node
