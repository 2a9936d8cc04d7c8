#include "bus/bus.hpp"

#include <poll.h>

#include <algorithm>
#include <map>
#include <thread>

#include "catch.hpp"
#include "peer.hpp"
#include "process.hpp"

namespace isthmus {
namespace {

using namespace test;
using rendezvous::Broker;
using wire::Kind;

layout::RingPositions& positions(Bus& bus, std::uint32_t from, std::uint32_t to) {
    const auto base =
        const_cast<std::byte*>(static_cast<const std::byte*>(bus.arena().memory().base)) - bus.arena_offset();
    const auto geometry = layout::geometry(64 << 10, 16 << 20);
    return reinterpret_cast<layout::RingPositions*>(base + geometry.positions)[from * layout::max_peers + to];
}

layout::AttachRow& attachments(Bus& bus, std::uint32_t to) {
    const auto base = bus.arena().memory().base - bus.arena_offset();
    return reinterpret_cast<layout::AttachRow*>(base + layout::geometry(64 << 10, 16 << 20).attachments)[to];
}

std::uint64_t owned_chunks(Bus& bus) {
    const auto& memory = bus.arena().memory();
    return static_cast<std::uint64_t>(std::count_if(memory.chunks, memory.chunks + memory.chunk_count(),
                                                    [](const layout::Chunk& chunk) { return chunk.owner != 0; }));
}

/// Peers that died without leaving, where the leak check sees them.
std::vector<Bus*>& abandoned() {
    static auto* const peers = new std::vector<Bus*>;
    return *peers;
}

}  // namespace

TEST_CASE("a peer joins, calls and leaves", "[bus]") {
    Broker broker(small("calls"));
    Player service("calls", true), caller("calls", false);
    CHECK(caller.bus->service() != nullptr);
    REQUIRE(caller.submit(Kind::call, 1, 100) == Status::ok);
    REQUIRE(caller.submit(Kind::call, 2, 100'000) == Status::ok);
    CHECK(soon([&] {
        service.sweep();
        caller.sweep();
        return caller.completed == 2;
    }));
    CHECK(caller.wrong == 0);
    CHECK(service.bus->links().size() == 1);
    caller.bus.reset();
    CHECK(soon([&] {
        service.sweep();
        return service.bus->links().empty();
    }));
    CHECK(service.lost == std::vector{Status::lost});
    CHECK(service.bus->arena().usage().held_blocks == 0);
}

TEST_CASE("whoever joins before the service is there waits for it", "[bus][threads]") {
    Broker broker(small("early"));
    std::thread early([] {
        Player caller("early", false);
        caller.call_and_wait(10, 50);
        CHECK(caller.completed == 10);
    });
    std::this_thread::sleep_for(50ms);
    Service service("early");
    early.join();
}

TEST_CASE("whoever joins while no service comes is told that the host is not ready", "[bus]") {
    Broker broker(small("nobody"));
    try {
        join("nobody", false, 50ms);
        FAIL("joined a bus without a service");
    } catch (const Error& error) {
        CHECK(error.status() == Status::timed_out);
    }
}

TEST_CASE("many threads call at once and each call is answered once", "[bus][threads]") {
    Broker broker(small("many"));
    Service service("many");
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            Player caller("many", false);
            for (int round = 0; round < 10; ++round) caller.call_and_wait(100, t * 300);
            wrong += caller.completed != 1000;
            wrong += caller.wrong;
            wrong += caller.bus->arena().usage().held_blocks != 0;
        });
    }
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
}

TEST_CASE("64 peers fit, the 65th is refused, and a place that was left is taken again", "[bus]") {
    Broker broker(small("crowd"));
    std::vector<std::unique_ptr<Bus>> peers;
    peers.push_back(join("crowd", true));
    while (peers.size() < layout::max_peers) peers.push_back(join("crowd"));
    try {
        join("crowd");
        FAIL("a 65th peer joined");
    } catch (const Error& error) {
        CHECK(error.status() == Status::crowded);
    }
    const std::uint32_t slot = peers[30]->slot();
    const auto life = peers[0]->peer(slot).life.load();
    peers.erase(peers.begin() + 30);
    std::unique_ptr<Bus> next;
    CHECK(soon([&] {
        peers[0]->attend([](Link&, Status) {});
        try {
            next = join("crowd");
            return true;
        } catch (const Error&) {
            return false;
        }
    }));
    REQUIRE(next);
    CHECK(next->slot() == slot);
    CHECK(layout::generation_of(next->peer(slot).life) == layout::generation_of(life) + 1);
}

TEST_CASE("both orders of leaving work, and both at once", "[bus][threads]") {
    for (int round = 0; round < 60; ++round) {
        auto broker = std::make_unique<Broker>(small("orders"));
        auto service = std::make_unique<Service>("orders");
        Player caller("orders", false);
        caller.call_and_wait(5, 20'000);
        for (int i = 0; i < 5; ++i) (void)caller.submit(Kind::call, 100 + i, 20'000);
        caller.bus->flush();
        switch (round % 4) {
            case 0: caller.bus.reset(); break;
            case 1: service.reset(); break;
            case 2: broker.reset(); break;
            case 3: {
                std::thread other([&] { service.reset(); });
                caller.bus.reset();
                other.join();
                break;
            }
        }
        if (caller.bus) {
            CHECK(soon([&] {
                caller.sweep();
                return caller.bus->links().empty();
            }));
        }
    }
}

TEST_CASE("the end of the broker is the end of the bus", "[bus]") {
    auto broker = std::make_unique<Broker>(small("over"));
    Player service("over", true), caller("over", false);
    REQUIRE(caller.submit(Kind::call, 1, 10) == Status::ok);
    caller.sweep();
    CHECK_FALSE(caller.bus->closed());
    broker.reset();
    const auto start = Clock::now();
    while (!caller.bus->closed() && Clock::now() - start < 5s) caller.bus->wait(Clock::now() + 5s);
    CHECK(Clock::now() - start < 2s);
    caller.sweep();
    CHECK(caller.bus->links().empty());
    CHECK(caller.lost == std::vector{Status::lost});
    CHECK(caller.bus->service() == nullptr);
}

TEST_CASE("an isolate's death is not its process's death, and is known in milliseconds", "[bus][threads]") {
    Broker broker(small("isolate"));
    std::atomic<bool> may_die{false};
    std::atomic<Clock::time_point> died{};
    std::thread isolate([&] {
        Player service("isolate", true);
        while (!may_die) service.sweep();
        std::this_thread::sleep_for(100ms);  // its caller is asleep by then
        abandoned().push_back(service.bus.release());
        died = Clock::now();
    });
    Player caller("isolate", false);
    caller.call_and_wait(3, 10);
    may_die = true;
    const auto deadline = Clock::now() + 10s;
    while (caller.lost.empty() && Clock::now() < deadline) {
        caller.bus->wait(deadline);
        caller.sweep();
    }
    CHECK(Clock::now() - died.load() < 1s);
    isolate.join();
    CHECK(caller.lost == std::vector{Status::lost});
}

TEST_CASE("a flooder does not crowd out the others", "[bus]") {
    Broker broker(small("flood"));
    Player service("flood", true), flooder("flood", false), quiet("flood", false);
    service.sweep();
    for (int i = 0; i < 2000; ++i) REQUIRE(flooder.submit(Kind::post, 1, 0) == Status::ok);
    flooder.bus->flush();
    for (int i = 0; i < 30; ++i) REQUIRE(service.receive().frame.id == 1);  // it is the flooder's turn
    for (int i = 0; i < 10; ++i) REQUIRE(quiet.submit(Kind::call, 7, 0) == Status::ok);
    quiet.bus->flush();
    int before_quiet = 0, seen = 0;
    while (seen < 10) {
        const auto got = service.receive();
        REQUIRE(got.status == Status::ok);
        if (got.frame.id == 7) ++seen;
        if (seen == 0) ++before_quiet;
        flooder.bus->flush();
        service.bus->flush();
    }
    CHECK(before_quiet <= 64);
}

TEST_CASE("a producer that floods sleeps until there is room, and nothing is lost", "[bus][threads]") {
    Broker broker(small("starve"));
    constexpr std::uint64_t posts = 3000;
    std::atomic<std::uint64_t> received{0}, wrong{0};
    std::thread consumer([&] {
        Player service("starve", true);
        const auto deadline = Clock::now() + 30s;
        while (received < posts && Clock::now() < deadline) {
            service.bus->attend([](Link&, Status) {});
            for (auto got = service.receive(); got.status == Status::ok; got = service.receive()) {
                wrong += got.frame.id != ++received;
                if (received % 100 == 0) std::this_thread::sleep_for(1ms);
            }
            service.bus->flush();
            if (received < posts) service.bus->wait(Clock::now() + 5s);
        }
    });
    Player producer("starve", false);
    std::uint64_t late = 0;
    for (std::uint64_t id = 1; id <= posts; ++id) {
        REQUIRE(producer.submit(Kind::post, id, 3000) == Status::ok);
        producer.bus->flush();
        while (producer.bus->links().front()->waiting() > 3) {
            const auto start = Clock::now();
            producer.bus->wait(start + 3s);
            late += Clock::now() - start > 2s;
            producer.bus->flush();
        }
    }
    CHECK(soon(
        [&] {
            producer.bus->flush();
            return received == posts;
        },
        10s));
    consumer.join();
    CHECK(wrong == 0);
    CHECK(late == 0);
}

TEST_CASE("a hostile peer loses its own link and nobody else's", "[bus]") {
    Broker broker(small("hostile"));
    Player service("hostile", true), hostile("hostile", false), honest("hostile", false);
    for (Player* caller : {&hostile, &honest}) REQUIRE(caller->submit(Kind::call, 1, 10) == Status::ok);
    CHECK(soon([&] {
        for (Player* player : {&service, &hostile, &honest}) player->sweep();
        return hostile.completed == 1 && honest.completed == 1;
    }));
    REQUIRE(hostile.submit(Kind::call, 2, 10) == Status::ok);
    positions(*hostile.bus, hostile.bus->slot(), service.bus->slot()).tail = 0x1234567;
    service.sweep();
    CHECK(service.lost == std::vector{Status::corrupt});
    CHECK(service.bus->links().size() == 1);
    CHECK(service.bus->counters().links_corrupt == 1);
    REQUIRE(honest.submit(Kind::call, 2, 10) == Status::ok);
    CHECK(soon([&] {
        service.sweep();
        honest.sweep();
        return honest.completed == 2;
    }));
    // Whoever is cut off learns it, and waits for no answer.
    CHECK(hostile.bus->ready());
    hostile.sweep();
    CHECK(hostile.lost == std::vector{Status::lost});
    CHECK(hostile.bus->links().empty());
}

TEST_CASE("a cancelled call is completed, by the callee or here", "[bus]") {
    Broker broker(small("cancel"));
    Player service("cancel", true), caller("cancel", false);
    const std::uint64_t calls = 2000;
    for (std::uint64_t id = 1; id <= calls; ++id) REQUIRE(caller.submit(Kind::call, id, 10) == Status::ok);
    caller.bus->flush();
    Link& link = *caller.bus->service();
    for (std::uint64_t id = 1; id <= calls; ++id) {
        REQUIRE(caller.bus->submit(link, {.kind = Kind::cancel, .id = id}) == Status::ok);
    }
    caller.bus->flush();
    service.bus->attend([](Link&, Status) {});
    std::uint64_t arrived = 0, cancelled = 0;
    std::map<std::uint64_t, Status> completed;
    CHECK(soon([&] {
        for (auto got = service.receive(); got.status == Status::ok; got = service.receive()) {
            arrived += got.frame.kind == Kind::call;
            cancelled += got.frame.kind == Kind::cancel;
            if (got.frame.kind == Kind::cancel) {
                (void)service.bus->answer(*got.link,
                                          {.kind = Kind::error, .status = Status::cancelled, .id = got.frame.id});
            }
        }
        service.bus->flush();
        caller.bus->attend([](Link&, Status) {});
        for (auto got = caller.receive(); got.status == Status::ok; got = caller.receive()) {
            CHECK(completed.emplace(got.frame.id, got.frame.status).second);
        }
        caller.bus->flush();
        return completed.size() == calls;
    }));
    CHECK(arrived == cancelled);
    CHECK(arrived < calls);
    for (const auto& [id, status] : completed) CHECK(status == Status::cancelled);
}

TEST_CASE("a call that is given up before it was sent is over, and no completion comes", "[bus]") {
    Broker broker(small("give-up"));
    Player service("give-up", true), caller("give-up", false);
    const std::uint64_t calls = 2000;
    for (std::uint64_t id = 1; id <= calls; ++id) REQUIRE(caller.submit(Kind::call, id, 10) == Status::ok);
    std::uint64_t over = 0;
    for (std::uint64_t id = 1; id <= calls; ++id) over += caller.bus->give_up(*caller.bus->service(), id);
    CHECK(over > 0);
    CHECK(caller.receive().status == Status::empty);
    caller.bus->flush();
    service.bus->attend([](Link&, Status) {});
    std::uint64_t arrived = 0, cancelled = 0;
    CHECK(soon([&] {
        for (auto got = service.receive(); got.status == Status::ok; got = service.receive()) {
            arrived += got.frame.kind == Kind::call;
            cancelled += got.frame.kind == Kind::cancel;
        }
        service.bus->flush();
        caller.bus->flush();
        return cancelled == calls - over;
    }));
    CHECK(arrived == cancelled);
}

TEST_CASE("a link stands before its bell has come, and without one", "[bus]") {
    Broker broker(small("forged"));
    Player service("forged", true), caller("forged", false);
    service.sweep();
    // A peer whose bell the broker does not know.
    auto& life = const_cast<layout::Peer&>(service.bus->peer(50)).life;
    life = layout::life(1, layout::Phase::live);
    attachments(*service.bus, service.bus->slot()).from[50] = layout::attach_word(1, 1);
    CHECK(service.bus->ready());
    service.sweep();
    REQUIRE(service.bus->links().size() == 2);
    CHECK(soon([&] {
        service.sweep();
        return !service.bus->ready();
    }));
    CHECK_FALSE(service.bus->links().back()->has_bell());
    CHECK(service.bus->links().back()->submit({.kind = Kind::post}) == Status::ok);
    service.bus->flush();
    life = 0;
    service.sweep();
    CHECK(service.bus->links().size() == 1);
}

TEST_CASE("another thread of the peer can wake it", "[bus][threads]") {
    Broker broker(small("wake"));
    Player service("wake", true);
    std::atomic<bool> mail{false};
    for (int round = 0; round < 50; ++round) {
        mail = false;
        std::thread other([&] {
            mail = true;
            service.bus->wake();
        });
        const auto start = Clock::now();
        while (!mail) service.bus->wait(start + 10s);
        CHECK(Clock::now() - start < 5s);
        other.join();
    }
}

TEST_CASE("a loop that sleeps by itself is rung like one that waits", "[bus]") {
    Broker broker(small("loop"));
    Player service("loop", true), caller("loop", false);
    const auto rung = [&] {
        pollfd one{service.bus->bell(), POLLIN, 0};
        return ::poll(&one, 1, 0) > 0;
    };
    // The broker hands over the caller's bell, and rings for it.
    CHECK(soon([&] {
        service.sweep();
        return !service.bus->links().empty() && service.bus->links()[0]->has_bell() && rung();
    }));
    service.bus->silence();
    REQUIRE_FALSE(service.bus->arm());
    REQUIRE(caller.submit(Kind::call, 1, 0) == Status::ok);
    caller.bus->flush();
    CHECK(rung());
    service.bus->disarm();
    service.sweep();
    CHECK_FALSE(rung());
    // Nobody is rung who did not announce a sleep.
    REQUIRE(caller.submit(Kind::call, 2, 0) == Status::ok);
    caller.bus->flush();
    CHECK_FALSE(rung());
    CHECK(service.bus->arm());
    service.bus->disarm();
}

TEST_CASE("the least busy of several services is picked", "[bus]") {
    Broker broker(small("several"));
    Player first("several", true), second("several", true), caller("several", false);
    std::map<std::uint32_t, int> picked;
    for (int i = 0; i < 10; ++i) {
        Link* link = caller.bus->service();
        REQUIRE(link != nullptr);
        ++picked[link->ends().other];
        REQUIRE(caller.submit(Kind::call, 1 + i, 0) == Status::ok);
    }
    CHECK(picked[first.bus->slot()] == 5);
    CHECK(picked[second.bus->slot()] == 5);
}

TEST_CASE("counters can be read from outside while everything runs", "[bus][threads]") {
    Broker broker(small("counters"));
    Service service("counters");
    Player caller("counters", false), observer("counters", false);
    std::atomic<bool> over{false};
    std::thread reader([&] {
        std::uint64_t last = 0;
        while (!over) {
            const auto* counters = observer.bus->counters_of(caller.bus->slot());
            const std::uint64_t calls = counters->calls.load(std::memory_order_relaxed);
            if (calls < last) std::abort();
            last = calls;
        }
    });
    caller.call_and_wait(500, 100);
    over = true;
    reader.join();
    const auto* counters = observer.bus->counters_of(caller.bus->slot());
    REQUIRE(counters != nullptr);
    CHECK(counters->calls == 500);
    CHECK(counters->frames_received == 500);
    CHECK(observer.bus->counters_of(63) == nullptr);
    CHECK(observer.bus->counters_of(64) == nullptr);
}

TEST_CASE("messages of who left are read to the end, and its memory comes back", "[bus]") {
    Broker broker(small("last"));
    Player service("last", true), caller("last", false);
    service.sweep();
    for (int i = 0; i < 20; ++i) REQUIRE(caller.submit(Kind::post, 1, 100) == Status::ok);
    const auto big = caller.bus->arena().allocate(1 << 20);
    REQUIRE(big.status == Status::ok);
    caller.bus.reset();
    int got = 0;
    while (const int frames = service.sweep()) got += frames;
    CHECK(got == 20);
    CHECK(service.bus->links().empty());
    CHECK(soon([&] { return owned_chunks(*service.bus) == 0; }));
}

}  // namespace isthmus
