// The control socket's packets, and where the socket lies. Both sides of a rendezvous.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "bus/doorbell.hpp"
#include "bus/segment.hpp"

namespace isthmus::rendezvous {

/// The socket of a bus: $XDG_RUNTIME_DIR/isthmus/<bus>.sock, else /tmp/isthmus-<uid>/<bus>.sock. Makes the directory 0700 and
/// checks that it is the user's own. Throws Error for a name that is no name (letters, digits, '.', '_', '-') or an unsafe directory.
std::string socket_path(const std::string& bus);

/// The names of the buses whose sockets are in the directory, served or not.
std::vector<std::string> bus_names();

// The messages. Each is one packet; both sides are the same build of the same machine, which Hello makes sure of.
struct Hello {
    std::uint64_t magic;
    std::uint64_t layout_hash;
    std::uint32_t version;
    std::uint32_t kind;
    std::uint32_t service;   // 0: none; else its number plus 1
    std::uint32_t onlooker;  // 1: needs no service to be there
    char label[48];
};
struct Place {
    std::uint32_t slot;
    std::uint32_t generation;
};
struct Welcome {
    std::uint32_t status;  // Status; with anything but ok, nothing follows
    Place self;
    std::uint32_t services;
    Place service[layout::max_peers];
};
enum class Ask : std::uint32_t { live = 1, door = 2 };
struct Request {
    Ask ask;
    Place place;
};

constexpr std::size_t most_fds = 2 + layout::max_peers;

[[noreturn]] void fail(Status status, const std::string& what);

/// Does not wait: false when the socket is full or closed.
bool send_packet(int socket, const void* bytes, std::size_t size, const std::vector<int>& fds);
/// Bytes received, 0 at the end of the conversation, -1 when there is nothing or it failed.
ssize_t receive_packet(int socket, void* bytes, std::size_t size, std::vector<Fd>& fds);
bool poll_until(int fd, short events, doorbell::Deadline deadline);
bool same_user(int socket, ucred& credentials);
sockaddr_un address_of(const std::string& path);

}  // namespace isthmus::rendezvous
