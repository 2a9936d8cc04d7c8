// The control socket: admit, hand over file descriptors.
//
//   peer                                broker
//   connect to <dir>/<bus>.sock         SO_PEERCRED: the same user?
//   Hello      ------------------->     a free slot
//              <-------------------     Welcome + memfd, own eventfd, the services' eventfds
//   map, start the pulse
//   Live       ------------------->     watch the pulse
//   Door(slot) ------------------->
//              <-------------------     Door + that peer's eventfd
//   ... the socket's hang-up, or the pidfd, tells the broker that the peer is gone
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bus/peers.hpp"

namespace isthmus::rendezvous {

/// The socket of a bus: $XDG_RUNTIME_DIR/isthmus/<bus>.sock, else /tmp/isthmus-<uid>/<bus>.sock. Makes the directory 0700 and
/// checks that it is the user's own. Throws Error for a name that is no name (letters, digits, '.', '_', '-') or an unsafe directory.
std::string socket_path(const std::string& bus);

/// The names of the buses whose sockets are in the directory, served or not.
std::vector<std::string> bus_names();

struct Who {
    PeerKind kind = PeerKind::unknown;
    bool service = false;  // answers calls; the broker introduces it to those who join
    std::string label;     // for people: a script's name
};

/// The open control socket of a peer.
class Conversation {
public:
    explicit Conversation(Fd socket) : socket_(std::make_shared<Fd>(std::move(socket))) {}
    /// Tells the broker to watch this peer's pulse.
    void live();
    /// Asks the broker for the eventfd of another peer. False when it can't be asked now.
    bool ask_door(std::uint32_t slot, std::uint32_t generation);
    struct Door {
        std::uint32_t slot, generation;
        Fd bell;  // empty: that peer is gone
    };
    /// An answer to ask_door, if one has come. Does not wait.
    std::optional<Door> take_door();
    std::shared_ptr<Fd> socket() const { return socket_; }

private:
    std::shared_ptr<Fd> socket_;
};

/// What the broker handed over: a place on the bus, not yet taken.
struct Invitation {
    std::string bus;
    Fd socket, memory, bell;
    std::uint32_t slot = 0, generation = 0;
    struct Service {
        std::uint32_t slot, generation;
        Fd bell;
    };
    std::vector<Service> services;
};

/// Asks for a place on a bus. Blocks at most until the deadline; any thread. Throws Error: no_bus, refused, crowded, mismatch,
/// timed_out, unsafe.
Invitation ask(const std::string& bus, const Who& who, doorbell::Deadline deadline);

struct BrokerOptions {
    std::string bus;
    std::uint64_t arena_bytes = std::uint64_t{2} << 30;
    std::uint64_t ring_bytes = 256 << 10;
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
