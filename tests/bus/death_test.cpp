// Death on purpose, of whole processes and at any moment. What the survivors must see: the link is lost in milliseconds,
// nothing of the dead stays leased or owned, and everyone else goes on.
#include <poll.h>

#include <algorithm>
#include <random>

#include "catch.hpp"
#include "peer.hpp"
#include "process.hpp"

namespace isthmus {
namespace {

using namespace test;
using rendezvous::Broker;
using wire::Kind;

/// Whether the arena has neither an owned chunk nor a lease, but for what the asking peer has itself.
bool nothing_held(Bus& bus) {
    bus.tick();
    bus.arena().trim(std::chrono::steady_clock::time_point::max());
    const auto& memory = bus.arena().memory();
    for (std::uint64_t i = 0; i < memory.chunk_count(); ++i) {
        if (memory.chunks[i].owner != 0) return false;
    }
    return true;
}

bool no_leases(Bus& bus) {
    const auto& memory = bus.arena().memory();
    for (std::uint64_t i = 0; i < memory.chunk_count(); ++i) {
        if (memory.chunks[i].block_bytes == 0 && memory.chunks[i].span == 0) continue;
        for (std::uint32_t b = 0; b < layout::blocks_per_chunk; ++b) {
            if (memory.blocks[i * layout::blocks_per_chunk + b].leases != 0) return false;
        }
    }
    return true;
}

}  // namespace

TEST_CASE("process: calls for ever", "[.process]") {
    Player player(bus_of_process(), false);
    for (std::uint64_t id = 1;; ++id) {
        (void)player.submit(Kind::call, id, id % 7 == 0 ? 50'000 : id % 200);
        if (id % 3 == 0) (void)player.submit_array(id, 3000 + id % 11 * 30'000);
        player.sweep();
        while (player.bus->service() != nullptr && player.bus->service()->waiting() > 10) {
            player.bus->wait(Clock::now() + 1s);
            player.sweep();
        }
        if (!player.lost.empty()) return;
    }
}

TEST_CASE("process: serves for ever", "[.process]") {
    Player player(bus_of_process(), true);
    while (!player.bus->closed()) {
        if (player.sweep() == 0) player.bus->wait(Clock::now() + 1s);
    }
}

TEST_CASE("process: joins and leaves for ever", "[.process]") {
    for (;;) {
        try {
            Player player(bus_of_process(), false);
            player.call_and_wait(3, 10'000);
        } catch (const Error&) {
            return;
        }
    }
}

TEST_CASE("process: is the broker", "[.process]") {
    Broker broker({.bus = bus_of_process(), .arena_bytes = 16 << 20, .ring_bytes = 64 << 10});
    for (;;) ::pause();
}

TEST_CASE("process: is the broker and serves", "[.process]") {
    Broker broker({.bus = bus_of_process(), .arena_bytes = 16 << 20, .ring_bytes = 64 << 10});
    Player player(bus_of_process(), true);
    for (;;) {
        if (player.sweep() == 0) player.bus->wait(Clock::now() + 1s);
    }
}

TEST_CASE("process: is the broker and serves, and has a child that lets go", "[.process]") {
    Broker broker({.bus = bus_of_process(), .arena_bytes = 16 << 20, .ring_bytes = 64 << 10});
    Player player(bus_of_process(), true);
    if (::fork() == 0) {
        broker.forsake();
        player.bus->forsake();
        ::sleep(3);
        ::_exit(0);
    }
    for (;;) {
        if (player.sweep() == 0) player.bus->wait(Clock::now() + 1s);
    }
}

TEST_CASE("a child that was forked and let go keeps neither the name nor the bus", "[death]") {
    RuntimeDirectory::use();
    std::unique_ptr<Player> caller;
    Process broker("is the broker and serves, and has a child that lets go", "forked");
    REQUIRE(soon([&] {
        try {
            caller = std::make_unique<Player>("forked", false);
            return true;
        } catch (const Error& error) {
            return false;
        }
    }));
    caller->call_and_wait(5, 100);
    CHECK(caller->completed == 5);
    std::this_thread::sleep_for(20ms);
    const auto start = Clock::now();
    broker.kill();
    const auto knows_all = [&] { return !caller->lost.empty() && caller->bus->closed(); };
    while (!knows_all() && Clock::now() - start < 5s) {
        if (caller->sweep() == 0 && !knows_all()) caller->bus->wait(Clock::now() + 1s);
    }
    CHECK(knows_all());
    Broker next(small("forked"));
    Service service("forked");
    Player again("forked", false);
    again.call_and_wait(5, 100);
    CHECK(again.completed == 5);
    CHECK(Clock::now() - start < 2s);
}

TEST_CASE("callers killed at any moment are lost in milliseconds and leave nothing behind", "[death]") {
    Broker broker(small("killed"));
    Player service("killed", true);
    std::mt19937 random(7);
    std::vector<Clock::duration> delays;
    const auto play_until = [&](auto&& done, std::chrono::milliseconds within) {
        const auto deadline = Clock::now() + within;
        while (!done() && Clock::now() < deadline) {
            if (service.sweep() == 0) service.bus->wait(Clock::now() + 2ms);
        }
        return done();
    };
    for (int round = 0; round < 60; ++round) {
        Process first("calls for ever", "killed"), second("calls for ever", "killed");
        REQUIRE(play_until([&] { return service.bus->links().size() == 2; }, 10s));
        play_until([] { return false; }, std::chrono::milliseconds(random() % 8));
        service.lost.clear();
        first.signal(SIGKILL);
        const auto killed = Clock::now();
        REQUIRE(play_until([&] { return service.lost.size() == 1; }, 5s));
        delays.push_back(Clock::now() - killed);
        // The other one is not harmed.
        const auto before = service.bus->counters().replies.load();
        REQUIRE(play_until([&] { return service.bus->counters().replies > before + 10; }, 5s));
        CHECK(service.lost.size() == 1);
        second.kill();
        REQUIRE(play_until([&] { return service.bus->links().empty(); }, 5s));
        CHECK(std::all_of(service.lost.begin(), service.lost.end(), [](Status why) { return why == Status::lost; }));
        CHECK(service.wrong == 0);
        CHECK(service.bus->arena().usage().held_blocks == 0);
    }
    CHECK(soon([&] { return nothing_held(*service.bus); }));
    CHECK(no_leases(*service.bus));
    CHECK(median(delays) < 50ms);
}

TEST_CASE("peers killed while they join or leave take no place with them", "[death]") {
    Broker broker(small("joining"));
    Player service("joining", true);
    std::mt19937 random(11);
    for (int round = 0; round < 80; ++round) {
        Process guest("joins and leaves for ever", "joining");
        const auto until = Clock::now() + 3ms + std::chrono::microseconds(random() % 12'000);
        while (Clock::now() < until) {
            if (service.sweep() == 0) service.bus->wait(Clock::now() + 1ms);
        }
        guest.kill();
        CHECK(service.wrong == 0);
    }
    CHECK(soon([&] {
        service.sweep();
        return service.bus->links().empty();
    }));
    CHECK(soon([&] { return nothing_held(*service.bus); }));
    CHECK(no_leases(*service.bus));
    // Every place but the service's own is free again.
    CHECK(soon([&] {
        service.sweep();
        int taken = 0;
        for (std::uint32_t slot = 0; slot < layout::max_peers; ++slot) {
            taken += layout::phase_of(service.bus->peer(slot).life) != layout::Phase::free;
        }
        return taken == 1;
    }));
}

TEST_CASE("the death of the service ends every call that waits for it", "[death]") {
    Broker broker(small("service"));
    std::vector<Clock::duration> delays;
    for (int round = 0; round < 25; ++round) {
        Process service("serves for ever", "service");
        Player caller("service", false);
        for (std::uint64_t id = 1; id <= 50; ++id) REQUIRE(caller.submit(Kind::call, id, id * 100) == Status::ok);
        for (std::uint64_t id = 1; id <= 20; ++id) REQUIRE(caller.submit_array(id, 50'000) == Status::ok);
        for (int sweeps = 0; sweeps < round; ++sweeps) caller.sweep();
        service.signal(SIGKILL);
        const auto killed = Clock::now();
        while (caller.lost.empty() && Clock::now() - killed < 5s) {
            if (caller.sweep() == 0 && caller.lost.empty()) caller.bus->wait(Clock::now() + 1s);
        }
        delays.push_back(Clock::now() - killed);
        CHECK(caller.lost == std::vector{Status::lost});
        CHECK(caller.wrong == 0);
        CHECK(caller.bus->service() == nullptr);
        CHECK(caller.bus->arena().usage().held_blocks == 0);
    }
    CHECK(median(delays) < 50ms);
}

TEST_CASE("the death of the broker is known to everyone in milliseconds, and a new one takes its name", "[death]") {
    RuntimeDirectory::use();
    std::vector<Clock::duration> delays;
    for (int round = 0; round < 12; ++round) {
        Process broker("is the broker and serves", "headless");
        std::unique_ptr<Player> caller;
        REQUIRE(soon([&] {
            try {
                caller = std::make_unique<Player>("headless", false);
                return true;
            } catch (const Error& error) {
                return false;
            }
        }));
        caller->call_and_wait(10, 100);
        REQUIRE(caller->completed == 10);
        broker.signal(SIGKILL);
        const auto killed = Clock::now();
        while (caller->lost.empty() && Clock::now() - killed < 5s) {
            if (caller->sweep() == 0 && caller->lost.empty()) caller->bus->wait(Clock::now() + 1s);
        }
        delays.push_back(Clock::now() - killed);
        CHECK(soon([&] { return caller->bus->closed(); }, 1s));
    }
    CHECK(median(delays) < 50ms);
}

TEST_CASE("a stopped process is not dead", "[death]") {
    Broker broker(small("stopped"));
    Process service("serves for ever", "stopped");
    Player caller("stopped", false);
    caller.call_and_wait(5, 100);
    service.signal(SIGSTOP);
    REQUIRE(caller.submit(Kind::call, 1, 10) == Status::ok);
    caller.bus->flush();
    const auto until = Clock::now() + 700ms;
    while (Clock::now() < until) {
        caller.sweep();
        caller.bus->wait(until);
    }
    CHECK(caller.lost.empty());
    CHECK(caller.completed == 5);
    service.signal(SIGCONT);
    CHECK(soon([&] {
        caller.sweep();
        return caller.completed == 6;
    }));
}

TEST_CASE("a stopped broker stops nobody's calls", "[death]") {
    RuntimeDirectory::use();
    Process broker("is the broker", "frozen");
    std::unique_ptr<Player> service, caller;
    REQUIRE(soon([&] {
        try {
            service = std::make_unique<Player>("frozen", true);
            return true;
        } catch (const Error& error) {
            return false;
        }
    }));
    caller = std::make_unique<Player>("frozen", false);
    service->sweep();
    broker.signal(SIGSTOP);
    for (int i = 0; i < 20; ++i) REQUIRE(caller->submit(Kind::call, 1, 100) == Status::ok);
    const auto until = Clock::now() + 400ms;
    while (Clock::now() < until) {
        service->sweep();
        caller->sweep();
    }
    CHECK(caller->completed == 20);
    CHECK(caller->lost.empty());
    CHECK_FALSE(caller->bus->closed());
    broker.signal(SIGCONT);
}

}  // namespace isthmus
