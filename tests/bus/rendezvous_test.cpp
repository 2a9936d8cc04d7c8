#include "bus/broker.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>

#include "catch.hpp"
#include "peer.hpp"
#include "process.hpp"

namespace isthmus {
namespace {

using namespace test;
using rendezvous::Broker;

// The messages as docs/protocol.md draws them, written out once more: whoever changes them on one side meets this.
struct Hello {
    std::uint64_t magic = layout::magic;
    std::uint64_t layout_hash = layout::hash();
    std::uint32_t version = layout::version;
    std::uint32_t kind = 0;
    std::uint32_t service = 0;
    std::uint32_t onlooker = 0;
    char label[48] = "by hand";
};
struct Request {
    std::uint32_t ask, slot, generation;
};
struct Welcome {
    std::uint32_t status, slot, generation, services;
    std::uint32_t service[layout::max_peers][2];
};

/// A guest that speaks the protocol by hand, and not always as it should.
class Guest {
public:
    explicit Guest(const std::string& bus) : socket_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
        const std::string path = rendezvous::socket_path(bus);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof address.sun_path - 1);
        connected = ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
        const timeval patience{5, 0};
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    }
    template <class Message>
    bool say(const Message& message, std::size_t bytes = sizeof(Message)) {
        return ::send(socket_.get(), &message, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(bytes);
    }
    /// Bytes of the answer; its descriptors are counted and closed.
    template <class Message>
    ssize_t hear(Message& message) {
        iovec part{&message, sizeof message};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 70)];
        msghdr header{};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        const ssize_t got = ::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
        descriptors = 0;
        for (cmsghdr* each = got < 0 ? nullptr : CMSG_FIRSTHDR(&header); each; each = CMSG_NXTHDR(&header, each)) {
            descriptors = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (std::size_t i = 0; i < descriptors; ++i) {
                int fd;
                std::memcpy(&fd, CMSG_DATA(each) + i * sizeof fd, sizeof fd);
                ::close(fd);
            }
        }
        return got;
    }
    /// Whether the broker has hung up on this guest.
    bool cut_off() {
        char byte;
        return ::recv(socket_.get(), &byte, 1, 0) == 0;
    }

    bool connected = false;
    std::size_t descriptors = 0;

private:
    Fd socket_;
};

Status refusal(const std::function<void()>& attempt) {
    try {
        attempt();
        return Status::ok;
    } catch (const Error& error) {
        CHECK(std::strlen(error.what()) > 10);
        return error.status();
    }
}

/// Sets XDG_RUNTIME_DIR for a while.
struct Runtime {
    explicit Runtime(const char* path) : before(RuntimeDirectory::use()) {
        if (path) {
            ::setenv("XDG_RUNTIME_DIR", path, 1);
        } else {
            ::unsetenv("XDG_RUNTIME_DIR");
        }
    }
    ~Runtime() { ::setenv("XDG_RUNTIME_DIR", before.c_str(), 1); }
    std::string before;
};

/// Whether a well-behaved peer can still join, call and be answered.
bool still_serves(const std::string& bus) {
    Player caller(bus, false);
    caller.call_and_wait(3, 10);
    return caller.completed == 3;
}

int taken_places(Bus& bus) {
    int taken = 0;
    for (std::uint32_t slot = 0; slot < layout::max_peers; ++slot) {
        taken += layout::phase_of(bus.peer(slot).life) != layout::Phase::free;
    }
    return taken;
}

}  // namespace

TEST_CASE("a name that is no name is refused", "[rendezvous]") {
    RuntimeDirectory::use();
    for (const char* name : {"", ".", "..", ".hidden", "a/b", "../a", "a b", "a\nb", "gr\xc3\xbc\xc3\x9f"}) {
        INFO(name);
        CHECK(refusal([&] { rendezvous::socket_path(name); }) == Status::no_bus);
        CHECK(refusal([&] { Broker broker({.bus = name}); }) == Status::no_bus);
    }
    CHECK(refusal([&] { Broker broker(small(std::string(120, 'n'))); }) == Status::unsafe);
    CHECK(rendezvous::socket_path("A-z_0.9") == RuntimeDirectory::use() + "/isthmus/A-z_0.9.sock");
}

TEST_CASE("a directory that others may enter is refused", "[rendezvous]") {
    const std::string base = RuntimeDirectory::use() + "/unsafe";
    std::filesystem::create_directories(base);
    const Runtime runtime(base.c_str());
    const std::string directory = base + "/isthmus";
    const auto attempt = [] { return refusal([] { rendezvous::socket_path("x"); }); };
    CHECK(attempt() == Status::ok);
    struct stat made{};
    REQUIRE(::stat(directory.c_str(), &made) == 0);
    CHECK((made.st_mode & 0777) == 0700);
    for (const mode_t mode : {0755, 0770, 0701, 0777}) {
        ::chmod(directory.c_str(), mode);
        CHECK(attempt() == Status::unsafe);
    }
    ::chmod(directory.c_str(), 0700);
    CHECK(attempt() == Status::ok);
    std::filesystem::rename(directory, base + "/elsewhere");
    std::filesystem::create_directory_symlink(base + "/elsewhere", directory);
    CHECK(attempt() == Status::unsafe);
    std::filesystem::remove(directory);
    std::ofstream(directory) << "a file";
    CHECK(attempt() == Status::unsafe);
    if (::geteuid() == 0) {
        std::filesystem::remove(directory);
        std::filesystem::create_directory(directory);
        ::chmod(directory.c_str(), 0700);
        REQUIRE(::chown(directory.c_str(), 12345, 12345) == 0);
        CHECK(attempt() == Status::unsafe);
    }
}

TEST_CASE("without a runtime directory the sockets are in one of the user's own", "[rendezvous]") {
    const std::string expected = "/tmp/isthmus-" + std::to_string(::geteuid()) + "/x.sock";
    {
        const Runtime runtime(nullptr);
        CHECK(rendezvous::socket_path("x") == expected);
    }
    {
        const Runtime runtime("relative/path");
        CHECK(rendezvous::socket_path("x") == expected);
    }
    ::rmdir(("/tmp/isthmus-" + std::to_string(::geteuid())).c_str());  // stays when others use it
}

TEST_CASE("a name is served once at a time, is listed, and leaves nothing behind", "[rendezvous]") {
    const std::string directory = RuntimeDirectory::use() + "/isthmus";
    {
        Broker broker(small("once"));
        CHECK(refusal([] { Broker again(small("once")); }) == Status::busy);
        Broker other(small("twice"));
        const auto names = rendezvous::bus_names();
        CHECK(std::count(names.begin(), names.end(), "once") == 1);
        CHECK(std::count(names.begin(), names.end(), "twice") == 1);
        CHECK(broker.path() == directory + "/once.sock");
    }
    for (const char* file : {"once.sock", "once.lock", "twice.sock", "twice.lock"}) {
        CHECK_FALSE(std::filesystem::exists(directory + "/" + file));
    }
    CHECK(refusal([] { join("once"); }) == Status::no_bus);
    Broker again(small("once"));
}

TEST_CASE("what a killed broker left is in nobody's way", "[rendezvous][death]") {
    RuntimeDirectory::use();
    const std::string path = rendezvous::socket_path("left");
    {
        Process broker("is the broker", "left");
        REQUIRE(soon([&] { return std::filesystem::exists(path); }));
        CHECK(refusal([] { Broker busy(small("left")); }) == Status::busy);
    }
    CHECK(std::filesystem::exists(path));
    CHECK(refusal([] { join("left"); }) == Status::no_bus);
    Broker broker(small("left"));
    Service service("left");
    CHECK(still_serves("left"));
}

TEST_CASE("another version is refused by both sides with a word for it", "[rendezvous]") {
    Broker broker(small("version"));
    Service service("version");
    const std::function<void(Hello&)> lies[] = {
        [](Hello& hello) { ++hello.version; },
        [](Hello& hello) { ++hello.layout_hash; },
        [](Hello& hello) { ++hello.magic; },
        [](Hello& hello) { hello.magic = 0; },
    };
    for (const auto& lie : lies) {
        Hello hello;
        lie(hello);
        Guest guest("version");
        REQUIRE(guest.say(hello));
        Welcome welcome{};
        REQUIRE(guest.hear(welcome) == sizeof welcome);
        CHECK(welcome.status == static_cast<std::uint32_t>(Status::mismatch));
        CHECK(guest.descriptors == 0);
    }
    CHECK(still_serves("version"));
}

TEST_CASE("a guest by hand is welcomed with the memory, its bell and the services' bells", "[rendezvous]") {
    Broker broker(small("hand"));
    Player service("hand", true);
    Guest guest("hand");
    REQUIRE(guest.say(Hello{}));
    Welcome welcome{};
    REQUIRE(guest.hear(welcome) == sizeof welcome);
    CHECK(welcome.status == 0);
    CHECK(guest.descriptors == 3);
    CHECK(welcome.services == 1);
    CHECK(welcome.service[0][0] == service.bus->slot());
    CHECK(welcome.slot != service.bus->slot());
    CHECK(std::string(service.bus->peer(welcome.slot).label) == "by hand");
    // A door that is there, and those that are not.
    const auto doors = [&](std::uint32_t slot, std::uint32_t generation) {
        Request answer{};
        REQUIRE(guest.say(Request{2, slot, generation}));
        REQUIRE(guest.hear(answer) >= 8);
        return guest.descriptors;
    };
    CHECK(doors(service.bus->slot(), welcome.service[0][1]) == 1);
    CHECK(doors(service.bus->slot(), welcome.service[0][1] + 1) == 0);
    CHECK(doors(63, 1) == 0);
    CHECK(doors(64, 1) == 0);
    CHECK(doors(0xffffffff, 0xffffffff) == 0);
}

TEST_CASE("guests that send garbage, half a message or nothing harm nobody", "[rendezvous]") {
    Broker broker(small("garbage"));
    Service service("garbage");
    char noise[4096];
    std::memset(noise, 0x5a, sizeof noise);
    Guest silent("garbage");
    for (const std::size_t bytes : {1ul, 12ul, sizeof(Hello) - 1, 4096ul}) {
        Guest guest("garbage");
        REQUIRE(guest.say(noise, bytes));
        if (bytes < sizeof(Hello)) CHECK(guest.cut_off());
        CHECK(still_serves("garbage"));
    }
    {
        Guest half("garbage");
        REQUIRE(half.say(Hello{}, sizeof(Hello) / 2));
        CHECK(half.cut_off());
    }
    {
        Guest early("garbage");  // asks before it has a place
        REQUIRE(early.say(Request{1, 0, 0}));
        CHECK(early.cut_off());
    }
    {
        Guest twice("garbage");
        REQUIRE(twice.say(Hello{}));
        Welcome welcome{};
        REQUIRE(twice.hear(welcome) == sizeof welcome);
        for (int i = 0; i < 3; ++i) (void)twice.say(Request{1, 0, 0});
        (void)twice.say(Request{99, 0, 0});
        (void)twice.say(Hello{});
        CHECK(still_serves("garbage"));
    }
    CHECK(still_serves("garbage"));
}

TEST_CASE("a guest that never stops asking does not keep the broker from the others", "[rendezvous][threads]") {
    Broker broker(small("chatter"));
    Service service("chatter");
    std::atomic<bool> over{false};
    std::vector<std::thread> chatterers;
    for (int i = 0; i < 2; ++i) {
        chatterers.emplace_back([&] {
            Guest guest("chatter");
            Welcome welcome{};
            (void)guest.say(Hello{});
            (void)guest.hear(welcome);
            while (!over) (void)guest.say(Request{99, 0, 0});
        });
    }
    std::this_thread::sleep_for(20ms);
    const auto start = Clock::now();
    CHECK(still_serves("chatter"));
    CHECK(Clock::now() - start < 5s);
    over = true;
    for (auto& thread : chatterers) thread.join();
}

TEST_CASE("a guest that hangs up at any step gives its place back", "[rendezvous]") {
    Broker broker(small("steps"));
    Player service("steps", true);
    for (int step = 0; step <= 4; ++step) {
        for (int again = 0; again < 3; ++again) {
            Guest guest("steps");
            REQUIRE(guest.connected);
            if (step >= 1) REQUIRE(guest.say(Hello{}));
            Welcome welcome{};
            if (step >= 2) REQUIRE(guest.hear(welcome) == sizeof welcome);
            if (step >= 3) REQUIRE(guest.say(Request{1, 0, 0}));
            if (step >= 4) REQUIRE(guest.say(Request{2, welcome.slot, welcome.generation}));
        }
    }
    CHECK(soon([&] { return taken_places(*service.bus) == 1; }));
}

TEST_CASE("process: is a broker with few descriptors", "[.process]") {
    const rlimit few{40, 40};
    ::setrlimit(RLIMIT_NOFILE, &few);
    Broker broker({.bus = bus_of_process(), .arena_bytes = 16 << 20, .ring_bytes = 64 << 10});
    for (;;) ::pause();
}

TEST_CASE("a broker without descriptors left rests, and goes on when it has some", "[rendezvous][death]") {
    RuntimeDirectory::use();
    Process broker("is a broker with few descriptors", "few");
    REQUIRE(soon([] { return std::filesystem::exists(rendezvous::socket_path("few")); }));
    std::this_thread::sleep_for(20ms);
    const auto processor_time = [&] {
        std::ifstream stat("/proc/" + std::to_string(broker.pid()) + "/stat");
        std::string word;
        long user = 0, system = 0;
        for (int i = 1; i <= 13; ++i) stat >> word;
        stat >> user >> system;
        return (user + system) * 1000 / ::sysconf(_SC_CLK_TCK);
    };
    {
        std::vector<std::unique_ptr<Guest>> guests;
        for (int i = 0; i < 60; ++i) guests.push_back(std::make_unique<Guest>("few"));
        std::this_thread::sleep_for(50ms);
        const long before = processor_time();
        std::this_thread::sleep_for(400ms);
        CHECK(processor_time() - before < 150);
    }
    std::unique_ptr<Bus> peer;
    CHECK(soon([&] {
        try {
            peer = join("few", true, 500ms);
            return true;
        } catch (const Error&) {
            return false;
        }
    }));
}

TEST_CASE("asking a broker that does not answer ends at the deadline", "[rendezvous][death]") {
    RuntimeDirectory::use();
    Process broker("is the broker", "mute");
    REQUIRE(soon([] { return refusal([] { join("mute", true, 1s); }) == Status::ok; }));
    broker.signal(SIGSTOP);
    std::this_thread::sleep_for(10ms);
    const auto late = [] { return refusal([] { join("mute", true, 100ms); }); };
    auto start = Clock::now();
    CHECK(late() == Status::timed_out);
    CHECK(Clock::now() - start < 2s);
    // Also when so many have asked before that no more can wait in line.
    const sockaddr_un address = [] {
        sockaddr_un to{};
        to.sun_family = AF_UNIX;
        rendezvous::socket_path("mute").copy(to.sun_path, sizeof to.sun_path - 1);
        return to;
    }();
    std::vector<Fd> line;
    for (;;) {
        Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) break;
        line.push_back(std::move(socket));
        REQUIRE(line.size() < 1000);
    }
    std::atomic<bool> over{false};
    std::thread rescue([&] {  // or a failure would last for ever
        soon([&] { return over.load(); }, 3s);
        broker.signal(SIGCONT);
    });
    start = Clock::now();
    CHECK(late() == Status::timed_out);
    CHECK(Clock::now() - start < 1s);
    over = true;
    rescue.join();
    line.clear();
    CHECK(soon([] { return refusal([] { join("mute", true, 500ms); }) == Status::ok; }));
}

TEST_CASE("callers are admitted once something is served, or at once where the bus is open", "[rendezvous]") {
    auto options = small("waiting");
    rendezvous::Broker waiting(options);
    CHECK(refusal([] { join("waiting", false, 100ms); }) == Status::timed_out);
    options.bus = "open";
    options.open = true;
    rendezvous::Broker open(options);
    CHECK(join("open")->service() == nullptr);
}

}  // namespace isthmus
