#include "bus/control.hpp"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace isthmus::rendezvous {

[[noreturn]] void fail(Status status, const std::string& what) {
    throw Error(status, what + ": " + std::strerror(errno));
}

bool send_packet(int socket, const void* bytes, std::size_t size, const std::vector<int>& fds) {
    iovec part{const_cast<void*>(bytes), size};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * most_fds)] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
        std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
    }
    ssize_t sent;
    do {
        sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    return sent == static_cast<ssize_t>(size);
}

ssize_t receive_packet(int socket, void* bytes, std::size_t size, std::vector<Fd>& fds) {
    iovec part{bytes, size};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * most_fds)];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t got;
    do {
        got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return -1;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd;
            std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            fds.emplace_back(fd);
        }
    }
    return got;
}

bool poll_until(int fd, short events, doorbell::Deadline deadline) {
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - doorbell::Clock::now());
        pollfd one{fd, events, 0};
        const int ready = ::poll(&one, 1, static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 1 << 30)));
        if (ready > 0) return true;
        if (ready == 0 || errno != EINTR) return false;
    }
}

bool same_user(int socket, ucred& credentials) {
    socklen_t size = sizeof credentials;
    return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 && credentials.uid == ::geteuid();
}

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        throw Error(Status::unsafe, "the socket's path is longer than " + std::to_string(sizeof address.sun_path - 1) +
                                        " bytes: use a shorter bus name or XDG_RUNTIME_DIR (" + path + ")");
    }
    path.copy(address.sun_path, path.size());
    return address;
}

namespace {

std::filesystem::path directory() {
    const char* runtime = std::getenv("XDG_RUNTIME_DIR");
    const std::filesystem::path path = runtime && *runtime == '/'
                                           ? std::filesystem::path(runtime) / "isthmus"
                                           : std::filesystem::path("/tmp/isthmus-" + std::to_string(::geteuid()));
    if (::mkdir(path.c_str(), 0700) < 0 && errno != EEXIST) fail(Status::unsafe, "cannot make " + path.string());
    struct stat info{};
    if (::lstat(path.c_str(), &info) < 0) fail(Status::unsafe, "cannot look at " + path.string());
    if (!S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 077) != 0) {
        throw Error(
            Status::unsafe,
            path.string() +
                " is not a directory that belongs to this user alone (mode 0700): remove it, or set XDG_RUNTIME_DIR");
    }
    return path;
}

}  // namespace

std::string socket_path(const std::string& bus) {
    const auto good = [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
    };
    if (bus.empty() || bus.front() == '.' || !std::all_of(bus.begin(), bus.end(), good)) {
        throw Error(
            Status::no_bus,
            "'" + bus + "' can't be the name of a bus: use letters, digits, '.', '_' and '-', and no '.' in front");
    }
    return directory() / (bus + ".sock");
}

std::vector<std::string> bus_names() {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory())) {
        if (entry.path().extension() == ".sock") names.push_back(entry.path().stem());
    }
    std::sort(names.begin(), names.end());
    return names;
}

}  // namespace isthmus::rendezvous
