#include "bus/rendezvous.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <optional>
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

namespace {

constexpr auto look_every = 20ms;

/// Throws Error: closed.
void pause(const Patience& patience) {
    std::this_thread::sleep_for(look_every);
    if (patience.given_up && patience.given_up()) throw Error(Status::closed);
}

/// Whether the socket was readable before the patience ended. Throws Error: closed.
bool answers(int socket, const Patience& patience) {
    for (;;) {
        const auto slice = patience.given_up ? doorbell::Clock::now() + look_every : patience.ready;
        if (poll_until(socket, POLLIN, std::min(slice, patience.ready))) return true;
        if (doorbell::Clock::now() >= patience.ready) return false;
        if (patience.given_up && patience.given_up()) throw Error(Status::closed);
    }
}

/// Nothing when there is no such bus, or when it ended meanwhile.
std::optional<Invitation> ask_once(const std::string& bus, const Who& who, const Patience& patience) {
    const sockaddr_un address = address_of(socket_path(bus));
    Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) fail(Status::no_memory, "cannot make a socket");
    const auto late = [&bus] {
        return Error(Status::timed_out,
                     "the bus '" + bus + "' did not answer in time: its host is not ready yet, or stopped");
    };
    while (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return std::nullopt;
        if (doorbell::Clock::now() >= patience.ready) throw late();  // too many wait in line
        pause(patience);
    }
    ucred credentials{};
    if (!same_user(socket.get(), credentials)) throw Error(Status::refused);

    Hello hello{
        layout::magic, layout::hash(), layout::version, static_cast<std::uint32_t>(who.kind), 0, who.onlooker, {}};
    if (who.service) hello.service = who.worker + 1;
    who.label.copy(hello.label, sizeof hello.label - 1);
    Welcome welcome{};
    std::vector<Fd> fds;
    ssize_t got = 0;
    if (send_packet(socket.get(), &hello, sizeof hello, {})) {
        if (!answers(socket.get(), patience)) throw late();
        got = receive_packet(socket.get(), &welcome, sizeof welcome, fds);
    }
    if (got == 0) return std::nullopt;
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

}  // namespace

Invitation ask(const std::string& bus, const Who& who, const Patience& patience) {
    for (;;) {
        if (auto invitation = ask_once(bus, who, patience)) return std::move(*invitation);
        if (doorbell::Clock::now() >= patience.appears)
            throw Error(Status::no_bus, "no bus named '" + bus + "' is being served");
        pause(patience);
    }
}

}  // namespace isthmus::rendezvous
