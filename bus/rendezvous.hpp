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

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bus/control.hpp"
#include "bus/peers.hpp"

namespace isthmus::rendezvous {

struct Who {
    PeerKind kind = PeerKind::unknown;
    bool service = false;      // answers calls; the broker introduces it to those who join
    std::string label;         // for people: a script's name
    std::uint32_t worker = 0;  // of a service: its number among those that export the same
    bool onlooker = false;     // needs no service to be there
};

/// How long an answer is waited for.
struct Patience {
    doorbell::Deadline ready;             // for a host that is there to be ready
    doorbell::Deadline appears = {};      // for a bus to be there
    std::function<bool()> given_up = {};  // asked some times a second: true ends it, with Status::closed
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

/// Asks for a place on a bus. Blocks as long as the patience goes; any thread.
/// Throws Error: no_bus, refused, crowded, mismatch, timed_out, unsafe, closed.
Invitation ask(const std::string& bus, const Who& who, const Patience& patience);

}  // namespace isthmus::rendezvous
