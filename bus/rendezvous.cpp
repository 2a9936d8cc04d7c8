#include "bus/rendezvous.hpp"

#include <poll.h>

#include <cerrno>
#include <thread>

namespace isthmus::rendezvous {

using namespace std::chrono_literals;

void Conversation::live() {
    const Request request{Ask::live, {}};
    send_packet(socket_->get(), &request, sizeof request, {});
}

bool Conversation::ask_door(std::uint32_t slot, std::uint32_t generation) {
    const Request request{Ask::door, {slot, generation}};
    return send_packet(socket_->get(), &request, sizeof request, {});
}

std::optional<Conversation::Door> Conversation::take_door() {
    Place place{};
    std::vector<Fd> fds;
    if (receive_packet(socket_->get(), &place, sizeof place, fds) != sizeof place) return std::nullopt;
    return Door{place.slot, place.generation, fds.empty() ? Fd{} : std::move(fds.front())};
}

Invitation ask(const std::string& bus, const Who& who, doorbell::Deadline deadline, doorbell::Deadline appears) {
    const sockaddr_un address = address_of(socket_path(bus));
    Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) fail(Status::no_memory, "cannot make a socket");
    const auto late = [&bus] {
        return Error(Status::timed_out,
                     "the bus '" + bus + "' did not answer in time: its host is not ready yet, or stopped");
    };
    while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
        if (errno == EINTR) continue;
        if (errno == EAGAIN) {  // too many wait in line
            if (doorbell::Clock::now() >= deadline) throw late();
            std::this_thread::sleep_for(5ms);
            continue;
        }
        if (doorbell::Clock::now() < appears) {
            std::this_thread::sleep_for(20ms);
            continue;
        }
        throw Error(Status::no_bus, "no bus named '" + bus + "' is being served");
    }
    ucred credentials{};
    if (!same_user(socket.get(), credentials)) throw Error(Status::refused);

    Hello hello{layout::magic, layout::hash(), layout::version, static_cast<std::uint32_t>(who.kind), 0, {}};
    if (who.service) hello.service = who.worker + 1;
    who.label.copy(hello.label, sizeof hello.label - 1);
    Welcome welcome{};
    std::vector<Fd> fds;
    ssize_t got = 0;
    if (send_packet(socket.get(), &hello, sizeof hello, {})) {
        if (!poll_until(socket.get(), POLLIN, deadline)) throw late();
        got = receive_packet(socket.get(), &welcome, sizeof welcome, fds);
    }
    if (got == 0) throw Error(Status::no_bus, "the bus '" + bus + "' ended while this peer was joining");
    if (got != sizeof welcome) throw Error(Status::mismatch);
    if (static_cast<Status>(welcome.status) != Status::ok) throw Error(static_cast<Status>(welcome.status));
    if (welcome.self.slot >= layout::max_peers || welcome.services > layout::max_peers ||
        fds.size() != 2 + welcome.services) {
        throw Error(Status::mismatch,
                    "the broker of '" + bus +
                        "' handed over fewer file descriptors than it should: raise the limit (ulimit -n)");
    }
    Invitation invitation{
        bus, std::move(socket), std::move(fds[0]), std::move(fds[1]), welcome.self.slot, welcome.self.generation, {}};
    for (std::uint32_t i = 0; i < welcome.services; ++i) {
        invitation.services.push_back({welcome.service[i].slot, welcome.service[i].generation, std::move(fds[2 + i])});
    }
    return invitation;
}

}  // namespace isthmus::rendezvous
