#include "bus/broker.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "bus/control.hpp"

namespace isthmus::rendezvous {

using namespace std::chrono_literals;

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
    bool open = false;
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
    s.open = options.open;
    s.take_lock(s.path.substr(0, s.path.size() - 5) + ".lock");
    State::sweep(std::filesystem::path(s.path).parent_path());
    s.segment = std::make_shared<Segment>(Segment::create(options.bus, options.ring_bytes, options.arena_bytes));
    auto& header = s.segment->header();
    header.quota_bytes = options.quota_bytes != 0 ? options.quota_bytes : header.arena_bytes / 4 * 3;
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

/// Gives a guest its place, once it has said hello and there is a service to introduce, or there need be none.
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
    if (!hello.service && !hello.onlooker && !open && !has_service()) return;

    const std::string label(hello.label, ::strnlen(hello.label, sizeof hello.label));
    const std::uint32_t slot =
        peers::admit(*segment, next_slot, static_cast<PeerKind>(hello.kind), guest.pid, hello.service, label);
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
