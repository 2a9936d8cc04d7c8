// The broker: creates the segment, admits peers, and takes back what the dead have left.
#pragma once

#include <memory>
#include <string>

#include "bus/rendezvous.hpp"

namespace isthmus::rendezvous {

struct BrokerOptions {
    std::string bus;
    std::uint64_t arena_bytes = std::uint64_t{2} << 30;
    std::uint64_t ring_bytes = 256 << 10;
    std::uint64_t quota_bytes = 0;  // of the arena, that one peer may own; 0: three quarters
    bool open = false;              // peers are admitted also while nothing is served
};

/// Creates the segment and serves the socket from a thread of its own, which takes no lock of any interpreter.
class Broker {
public:
    /// Throws Error: busy when the bus is being served, unsafe, no_memory.
    explicit Broker(const BrokerOptions& options);
    /// Ends the bus: peers find it closed. Removes the socket.
    ~Broker();
    Broker(const Broker&) = delete;
    Broker& operator=(const Broker&) = delete;

    /// In a forked child, where the broker's thread does not exist: closes what would keep the bus's name taken and its
    /// guests waiting after the parent has ended. The object must not be used, nor destroyed, afterwards.
    void forsake() noexcept;

    const std::string& path() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace isthmus::rendezvous
