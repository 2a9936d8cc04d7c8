#include "bus/rendezvous.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

namespace isthmus::rendezvous {

namespace {

using namespace std::chrono_literals;

// The messages. Each is one packet; both sides are the same build of the same machine, which Hello makes sure of.
struct Hello {
    std::uint64_t magic;
    std::uint64_t layout_hash;
    std::uint32_t version;
    std::uint32_t kind;
    std::uint32_t service;
    char label[44];
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

/// Bytes received, 0 at the end of the conversation, -1 when there is nothing or it failed.
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

Invitation ask(const std::string& bus, const Who& who, doorbell::Deadline deadline) {
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
        throw Error(Status::no_bus, "no bus named '" + bus + "' is being served");
    }
    ucred credentials{};
    if (!same_user(socket.get(), credentials)) throw Error(Status::refused);

    Hello hello{layout::magic, layout::hash(), layout::version, static_cast<std::uint32_t>(who.kind), who.service, {}};
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

namespace {

/// What a watch needs when a pulse stops, which may be after the broker has ended.
struct Alarm {
    std::shared_ptr<Segment> segment;
    Fd poke;  // wakes the broker's thread
    std::mutex mutex;
    std::array<std::shared_ptr<Fd>, layout::max_peers> bells;  // guarded by mutex

    void ring_every_bell() {
        std::lock_guard guard(mutex);
        for (std::uint32_t slot = 0; slot < layout::max_peers; ++slot) {
            if (!bells[slot]) continue;
            segment->peer(slot).asleep.store(0, std::memory_order_relaxed);
            doorbell::ring(bells[slot]->get());
        }
    }
    std::shared_ptr<Fd> bell(std::uint32_t slot) {
        std::lock_guard guard(mutex);
        return bells[slot];
    }
    void set_bell(std::uint32_t slot, std::shared_ptr<Fd> bell) {
        std::lock_guard guard(mutex);
        bells[slot] = std::move(bell);
    }
};

}  // namespace

// All of it belongs to the broker's thread once that runs, but for `alarm` and `stop`.
struct Broker::State {
    struct Guest {
        Fd socket, process;  // process: a pidfd, where the kernel gives one
        Hello hello{};
        std::uint32_t pid = 0;
        std::uint32_t slot = layout::max_peers;  // none yet
        std::uint32_t generation = 0;
        bool hung_up = false;
        bool taken_back = false;
        std::optional<peers::Watch> watch;
    };

    std::string path;
    Fd lock, listener;
    std::shared_ptr<Segment> segment;
    std::unique_ptr<SegmentPages> pages;
    std::shared_ptr<Alarm> alarm = std::make_shared<Alarm>();
    std::atomic<bool> stop{false};
    std::thread thread;

    std::vector<std::unique_ptr<Guest>> guests;
    std::uint32_t next_slot = 0;
    bool orphans = false;
    doorbell::Deadline accept_again{};

    void take_lock(const std::string& lock_path);
    static void sweep(const std::filesystem::path& directory);
    void listen();
    void run();
    void admit_all();
    void greet(Guest& guest);
    bool has_service() const;
    void serve(Guest& guest);
    void watch(Guest& guest);
    bool gone(Guest& guest);
    layout::Peer& peer(const Guest& guest) const { return segment->peer(guest.slot); }
};

/// One broker per name: the lock is the kernel's, so it ends with the process, and the file goes with an orderly end.
void Broker::State::take_lock(const std::string& lock_path) {
    for (;;) {
        lock = Fd(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (!lock) fail(Status::unsafe, "cannot open " + lock_path);
        // Another broker's sweep holds it for a moment.
        for (int tries = 0; ::flock(lock.get(), LOCK_EX | LOCK_NB) < 0; ++tries) {
            if (tries == 20) throw Error(Status::busy);
            std::this_thread::sleep_for(5ms);
        }
        struct stat held{}, named{};
        if (::fstat(lock.get(), &held) == 0 && ::stat(lock_path.c_str(), &named) == 0 && held.st_ino == named.st_ino)
            return;
    }
}

/// Removes what killed brokers have left in the directory: whoever gets a lock knows that its broker is gone.
void Broker::State::sweep(const std::filesystem::path& directory) {
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
        if (entry.path().extension() != ".lock") continue;
        Fd dead(::open(entry.path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
        struct stat held{}, named{};
        if (!dead || ::flock(dead.get(), LOCK_EX | LOCK_NB) < 0) continue;
        if (::fstat(dead.get(), &held) < 0 || ::stat(entry.path().c_str(), &named) < 0 || held.st_ino != named.st_ino)
            continue;
        ::unlink(std::filesystem::path(entry.path()).replace_extension(".sock").c_str());
        ::unlink(entry.path().c_str());
    }
}

void Broker::State::listen() {
    ::unlink(path.c_str());  // of a broker that was killed: its lock is ours now
    const sockaddr_un address = address_of(path);
    listener = Fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!listener) fail(Status::no_memory, "cannot make a socket");
    if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0 ||
        ::chmod(path.c_str(), 0600) < 0 || ::listen(listener.get(), 128) < 0) {
        fail(Status::unsafe, "cannot serve " + path);
    }
}

Broker::Broker(const BrokerOptions& options) : state_(std::make_unique<State>()) {
    State& s = *state_;
    s.path = socket_path(options.bus);
    s.take_lock(s.path.substr(0, s.path.size() - 5) + ".lock");
    State::sweep(std::filesystem::path(s.path).parent_path());
    s.segment = std::make_shared<Segment>(Segment::create(options.bus, options.ring_bytes, options.arena_bytes));
    s.pages = std::make_unique<SegmentPages>(*s.segment);
    for (std::uint32_t slot = 0; slot < layout::max_peers; ++slot) peers::make_pulse(s.segment->peer(slot).pulse);
    peers::make_pulse(s.segment->header().broker_pulse);
    s.alarm->segment = s.segment;
    s.alarm->poke = Fd(doorbell::open());
    s.listen();
    s.thread = std::thread([&s] { s.run(); });
}

Broker::~Broker() {
    State& s = *state_;
    s.stop.store(true, std::memory_order_release);
    doorbell::ring(s.alarm->poke.get());
    s.thread.join();
    ::unlink(s.path.c_str());
    ::unlink((s.path.substr(0, s.path.size() - 5) + ".lock").c_str());
}

void Broker::forsake() noexcept {
    ::close(state_->listener.give());
    ::close(state_->lock.give());
    for (const auto& guest : state_->guests) ::close(guest->socket.give());
}

const std::string& Broker::path() const { return state_->path; }

void Broker::State::run() {
    auto& header = segment->header();
    (void)peers::start_pulse(header.broker_pulse, doorbell::Clock::now() + 1s);
    header.broker_life.store(layout::life(1, layout::Phase::live), std::memory_order_release);
    while (!stop.load(std::memory_order_acquire)) {
        const bool resting = doorbell::Clock::now() < accept_again;
        std::vector<pollfd> doors{{alarm->poke.get(), POLLIN, 0}, {resting ? -1 : listener.get(), POLLIN, 0}};
        for (const auto& guest : guests) {
            doors.push_back({guest->hung_up ? -1 : guest->socket.get(), POLLIN, 0});
            doors.push_back({guest->process && !guest->taken_back ? guest->process.get() : -1, POLLIN, 0});
        }
        const auto leaving = [](const auto& guest) { return guest->taken_back; };
        const bool chores = resting || orphans || std::any_of(guests.begin(), guests.end(), leaving);
        ::poll(doors.data(), doors.size(), chores ? 100 : -1);
        if (doors[0].revents) doorbell::silence(alarm->poke.get());
        const std::size_t known = guests.size();
        for (std::size_t i = 0; i < known; ++i) {
            if (doors[2 + 2 * i].revents) serve(*guests[i]);
            if (doors[3 + 2 * i].revents) guests[i]->hung_up = true;
        }
        std::erase_if(guests, [this](auto& guest) { return gone(*guest); });
        if (doors[1].revents) admit_all();
        if (orphans) {
            (void)return_orphans(arena_memory(*segment), *pages);
            orphans = false;
            for (std::uint64_t i = 0; i < arena_memory(*segment).chunk_count(); ++i) {
                if (segment->chunks()[i].owner.load(std::memory_order_relaxed) == layout::orphan) orphans = true;
            }
        }
    }
    header.broker_life.store(layout::life(1, layout::Phase::left), std::memory_order_release);
    alarm->ring_every_bell();
    peers::stop_pulse(header.broker_pulse);
}

void Broker::State::admit_all() {
    for (;;) {
        Fd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!socket) {
            // Without a descriptor left the listener stays readable: look again later, not all the time.
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                accept_again = doorbell::Clock::now() + 100ms;
            }
            return;
        }
        auto guest = std::make_unique<Guest>();
        ucred credentials{};
        if (!same_user(socket.get(), credentials)) {
            const Welcome no{
                .status = static_cast<std::uint32_t>(Status::refused), .self = {}, .services = 0, .service = {}};
            send_packet(socket.get(), &no, sizeof no, {});
            continue;
        }
        guest->socket = std::move(socket);
        guest->pid = static_cast<std::uint32_t>(credentials.pid);
        if (credentials.pid > 0) guest->process = Fd(static_cast<int>(::syscall(SYS_pidfd_open, credentials.pid, 0)));
        guests.push_back(std::move(guest));
    }
}

bool Broker::State::has_service() const {
    return std::any_of(guests.begin(), guests.end(), [this](const auto& guest) {
        return guest->slot < layout::max_peers && guest->hello.service &&
               layout::phase_of(peer(*guest).life.load(std::memory_order_acquire)) == layout::Phase::live;
    });
}

/// Gives a guest its place, once it has said hello and there is a service to introduce.
void Broker::State::greet(Guest& guest) {
    if (guest.hello.magic == 0 || guest.slot < layout::max_peers || guest.hung_up) return;
    Welcome welcome{};
    const auto refuse = [&](Status status) {
        welcome.status = static_cast<std::uint32_t>(status);
        send_packet(guest.socket.get(), &welcome, sizeof welcome, {});
        guest.hung_up = true;
    };
    const Hello& hello = guest.hello;
    if (hello.magic != layout::magic || hello.version != layout::version || hello.layout_hash != layout::hash()) {
        return refuse(Status::mismatch);
    }
    if (!hello.service && !has_service()) return;

    const std::string label(hello.label, ::strnlen(hello.label, sizeof hello.label));
    const std::uint32_t slot =
        peers::admit(*segment, next_slot, static_cast<PeerKind>(hello.kind), guest.pid, hello.service != 0, label);
    if (slot == layout::max_peers) return refuse(Status::crowded);
    next_slot = slot + 1;
    guest.slot = slot;
    guest.generation = layout::generation_of(peer(guest).life.load(std::memory_order_relaxed));
    std::shared_ptr<Fd> bell;
    try {
        bell = std::make_shared<Fd>(doorbell::open());
    } catch (const Error& error) {
        guest.hung_up = true;
        return;
    }
    std::vector<int> fds{segment->fd(), bell->get()};
    welcome.self = {slot, guest.generation};
    for (const auto& other : guests) {
        if (other.get() == &guest || other->slot >= layout::max_peers || !other->hello.service) continue;
        if (layout::phase_of(peer(*other).life.load(std::memory_order_acquire)) != layout::Phase::live) continue;
        welcome.service[welcome.services++] = {other->slot, other->generation};
        fds.push_back(alarm->bell(other->slot)->get());
    }
    alarm->set_bell(slot, bell);
    if (!send_packet(guest.socket.get(), &welcome, sizeof welcome, fds)) guest.hung_up = true;
}

void Broker::State::serve(Guest& guest) {
    for (int packets = 0; packets < 64; ++packets) {  // then the others have their turn
        std::array<char, sizeof(Hello)> packet{};
        std::vector<Fd> unasked;
        const ssize_t got = receive_packet(guest.socket.get(), packet.data(), packet.size(), unasked);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (got <= 0) {
            guest.hung_up = true;
            return;
        }
        Request request{};
        if (guest.hello.magic == 0 && got == sizeof(Hello)) {
            std::memcpy(&guest.hello, packet.data(), sizeof(Hello));
            if (guest.hello.magic == 0) guest.hello.magic = ~std::uint64_t{0};
            greet(guest);
        } else if (guest.slot < layout::max_peers && got == sizeof request) {
            std::memcpy(&request, packet.data(), sizeof request);
            if (request.ask == Ask::live) watch(guest);
            if (request.ask == Ask::door) {
                Place place = request.place;
                std::vector<int> fds;
                const auto bell = place.slot < layout::max_peers ? alarm->bell(place.slot) : nullptr;
                if (bell && segment->peer(place.slot).life.load(std::memory_order_acquire) ==
                                layout::life(place.generation, layout::Phase::live)) {
                    fds.push_back(bell->get());
                }
                if (!send_packet(guest.socket.get(), &place, sizeof place, fds)) guest.hung_up = true;
                // It does not poll this socket: the answer is looked for when it wakes.
                if (const auto own = alarm->bell(guest.slot)) {
                    peer(guest).asleep.store(0, std::memory_order_relaxed);
                    doorbell::ring(own->get());
                }
            }
        } else {
            guest.hung_up = true;
            return;
        }
    }
}

void Broker::State::watch(Guest& guest) {
    if (guest.watch) return;
    const std::uint32_t generation = guest.generation;
    auto& peer = this->peer(guest);
    guest.watch.emplace(segment, peer.pulse, [alarm = alarm, &peer, generation] {
        if (peers::mark_lost(peer.life, generation)) alarm->ring_every_bell();
        doorbell::ring(alarm->poke.get());
    });
    if (guest.hello.service) {
        for (const auto& parked : guests) greet(*parked);
    }
}

/// Takes back what a guest had, once nothing of it can write any more. True when the guest can be forgotten.
bool Broker::State::gone(Guest& guest) {
    if (guest.slot >= layout::max_peers) return guest.hung_up;
    if (!guest.taken_back) {
        const auto phase = layout::phase_of(peer(guest).life.load(std::memory_order_acquire));
        bool process_ended = guest.hung_up;
        if (guest.process) {
            pollfd process{guest.process.get(), POLLIN, 0};
            process_ended = ::poll(&process, 1, 0) > 0;
        }
        // A thread that died without its clean-up leaves a process behind that may still write: wait for that to end.
        const bool left = phase == layout::Phase::left || (phase == layout::Phase::joining && guest.hung_up);
        if (!left && !process_ended) return false;
        peers::mark_lost(peer(guest).life, guest.generation);
        guest.watch.reset();
        peers::take_back(*segment, *pages, guest.slot);
        guest.taken_back = orphans = true;
        alarm->ring_every_bell();
        alarm->set_bell(guest.slot, nullptr);
    }
    return peers::free_slot(*segment, guest.slot);
}

}  // namespace isthmus::rendezvous
