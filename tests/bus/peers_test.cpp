#include "bus/peers.hpp"

#include <future>

#include "catch.hpp"
#include "support.hpp"

#if defined(__SANITIZE_THREAD__)
// gcc's ThreadSanitizer does not know pthread_mutex_clocklock, so it takes each pulse's end for an unlock without a lock.
extern "C" const char* __tsan_default_suppressions() { return "mutex:isthmus::peers::stop_pulse\n"; }
#endif

namespace isthmus {
namespace {

using namespace test;
using layout::Phase;

struct Room {
    Room() {
        for (std::uint32_t slot = 0; slot < layout::max_peers; ++slot) peers::make_pulse(segment->peer(slot).pulse);
    }
    std::uint32_t admit(std::uint32_t after = 0) {
        return peers::admit(*segment, after, PeerKind::node, 42, true, "label");
    }
    void live(std::uint32_t slot) {
        auto& life = segment->peer(slot).life;
        life = layout::life(layout::generation_of(life), Phase::live);
    }

    std::shared_ptr<Segment> segment = std::make_shared<Segment>(Segment::create("peers", 64 << 10, 4 << 20));
    SegmentPages pages{*segment};
};

/// When a watch fired.
struct Fired {
    std::function<void()> callback() {
        return [state = state] {
            ++state->times;
            state->at = Clock::now();
        };
    }
    struct State {
        std::atomic<int> times{0};
        std::atomic<Clock::time_point> at{};
    };
    std::shared_ptr<State> state = std::make_shared<State>();
};

}  // namespace

TEST_CASE("the death of a thread is told within milliseconds", "[peers][threads]") {
    Room room;
    auto& pulse = room.segment->peer(0).pulse;
    std::vector<Clock::duration> delays;
    for (int round = 0; round < 5; ++round) {
        std::promise<void> started, die;
        std::thread peer([&] {
            CHECK(peers::start_pulse(pulse, Clock::now() + 1s) == Status::ok);
            started.set_value();
            die.get_future().wait();
        });
        started.get_future().wait();
        Fired fired;
        peers::Watch watch(room.segment, pulse, fired.callback());
        std::this_thread::sleep_for(20ms);
        CHECK(fired.state->times == 0);
        const auto death = Clock::now();
        die.set_value();
        peer.join();
        CHECK(soon([&] { return fired.state->times == 1; }));
        delays.push_back(fired.state->at.load() - death);
    }
    CHECK(median(delays) < 50ms);
}

TEST_CASE("a pulse that was stopped in order is told as well, and can be started again", "[peers][threads]") {
    Room room;
    auto& pulse = room.segment->peer(0).pulse;
    REQUIRE(peers::start_pulse(pulse, Clock::now() + 1s) == Status::ok);
    Fired fired;
    peers::Watch watch(room.segment, pulse, fired.callback());
    peers::stop_pulse(pulse);
    CHECK(soon([&] { return fired.state->times == 1; }));
    CHECK(peers::start_pulse(pulse, Clock::now() + 1s) == Status::ok);
    peers::stop_pulse(pulse);
}

TEST_CASE("a pulse that beats can't be started by another thread", "[peers][threads]") {
    Room room;
    auto& pulse = room.segment->peer(0).pulse;
    REQUIRE(peers::start_pulse(pulse, Clock::now() + 1s) == Status::ok);
    std::thread([&] { CHECK(peers::start_pulse(pulse, Clock::now() + 20ms) == Status::timed_out); }).join();
    peers::stop_pulse(pulse);
}

TEST_CASE("the backstop tells where the pulse does not", "[peers][threads]") {
    Room room;
    auto& pulse = room.segment->peer(0).pulse;
    REQUIRE(peers::start_pulse(pulse, Clock::now() + 1s) == Status::ok);
    std::atomic<bool> hung_up{false};
    Fired fired;
    peers::Watch watch(room.segment, pulse, fired.callback(), [&] { return hung_up.load(); });
    std::this_thread::sleep_for(300ms);
    CHECK(fired.state->times == 0);
    hung_up = true;
    CHECK(soon([&] { return fired.state->times == 1; }, 2s));
    peers::stop_pulse(pulse);
}

TEST_CASE("a watch that is over tells nothing, and keeps the memory as long as it looks", "[peers][threads]") {
    Fired fired;
    std::weak_ptr<Segment> memory;
    {
        Room room;
        auto& pulse = room.segment->peer(0).pulse;
        REQUIRE(peers::start_pulse(pulse, Clock::now() + 1s) == Status::ok);
        peers::Watch watch(room.segment, pulse, fired.callback());
        memory = room.segment;
        peers::Watch moved = std::move(watch);
        (void)moved;
        {
            peers::Watch ended = std::move(moved);
        }
        peers::stop_pulse(pulse);
    }
    CHECK(soon([&] { return memory.expired(); }));
    CHECK(fired.state->times == 0);
}

TEST_CASE("only the first to find a peer lost is the first", "[peers][threads]") {
    layout::Word64 life{layout::life(3, Phase::live)};
    CHECK_FALSE(peers::mark_lost(life, 2));
    std::atomic<int> first{0};
    std::vector<std::thread> finders;
    for (int i = 0; i < 4; ++i) finders.emplace_back([&] { first += peers::mark_lost(life, 3); });
    for (auto& finder : finders) finder.join();
    CHECK(first == 1);
    CHECK(life == layout::life(3, Phase::lost));
    life = layout::life(4, Phase::left);
    CHECK_FALSE(peers::mark_lost(life, 4));
}

TEST_CASE("64 are admitted, the 65th is not", "[peers]") {
    Room room;
    std::vector<bool> taken(layout::max_peers);
    for (std::uint32_t i = 0; i < layout::max_peers; ++i) {
        const std::uint32_t slot = room.admit(50);
        CHECK(slot == (50 + i) % layout::max_peers);
        CHECK_FALSE(taken[slot]);
        taken[slot] = true;
    }
    CHECK(room.admit() == layout::max_peers);
}

TEST_CASE("a place begins anew with each peer, under a new generation", "[peers]") {
    Room room;
    const std::uint32_t slot = room.admit(5);
    auto& peer = room.segment->peer(slot);
    CHECK(peer.life == layout::life(1, Phase::joining));
    CHECK(peer.pid == 42);
    CHECK(std::string(peer.label) == "label");
    room.live(slot);
    peer.counters.calls = 99;
    peer.counters.latencies[63] = 7;
    peer.asleep = 1;
    peer.life = layout::life(1, Phase::left);
    CHECK(room.admit(slot) != slot);
    peers::take_back(*room.segment, room.pages, slot);
    REQUIRE(peers::free_slot(*room.segment, slot));
    CHECK(room.admit(slot) == slot);
    CHECK(peer.life == layout::life(2, Phase::joining));
    CHECK(peer.counters.calls == 0);
    CHECK(peer.counters.latencies[63] == 0);
    CHECK(peer.asleep == 0);
    const std::uint32_t long_name = peers::admit(*room.segment, 9, PeerKind::python, 1, false, std::string(500, 'l'));
    CHECK(std::string(room.segment->peer(long_name).label) == std::string(43, 'l'));
}

TEST_CASE("a place is not free before its survivors have read what was left", "[peers]") {
    Room room;
    const std::uint32_t dead = room.admit(1), survivor = room.admit(2), bystander = room.admit(3);
    for (const std::uint32_t slot : {dead, survivor, bystander}) room.live(slot);
    auto& to_dead = room.segment->attachments(dead).from[survivor];
    auto& from_dead = room.segment->attachments(survivor).from[dead];
    to_dead = layout::attach_word(1, 1);
    from_dead = layout::attach_word(1, 1);
    REQUIRE(room.segment->reserve(room.segment->ring_offset(dead, survivor), 4096) == Status::ok);
    *room.segment->at(room.segment->ring_offset(dead, survivor)) = std::byte{1};
    room.segment->peer(dead).life = layout::life(1, Phase::lost);
    peers::take_back(*room.segment, room.pages, dead);
    CHECK_FALSE(peers::free_slot(*room.segment, dead));
    CHECK(from_dead != 0);
    CHECK(*room.segment->at(room.segment->ring_offset(dead, survivor)) == std::byte{1});
    to_dead = 0;
    CHECK(peers::free_slot(*room.segment, dead));
    CHECK(from_dead == 0);
    CHECK(*room.segment->at(room.segment->ring_offset(dead, survivor)) == std::byte{0});
    CHECK(layout::phase_of(room.segment->peer(dead).life) == Phase::free);
}

TEST_CASE("a survivor that died as well holds no place up", "[peers]") {
    Room room;
    const std::uint32_t first = room.admit(1), second = room.admit(2);
    room.segment->attachments(first).from[second] = layout::attach_word(1, 1);
    room.segment->attachments(second).from[first] = layout::attach_word(1, 1);
    for (const std::uint32_t slot : {first, second}) room.segment->peer(slot).life = layout::life(1, Phase::lost);
    CHECK(peers::free_slot(*room.segment, first));
    CHECK(peers::free_slot(*room.segment, second));
}

TEST_CASE("what a dead peer had in the arena is taken back", "[peers]") {
    Room room;
    const std::uint32_t dead = room.admit(1), alive = room.admit(2);
    const ArenaMemory memory = arena_memory(*room.segment);
    Arena its(memory, room.pages, dead, 1, room.segment->peer(dead).counters);
    Arena mine(memory, room.pages, alive, 1, room.segment->peer(alive).counters);
    const auto shared = its.allocate(1000), own = its.allocate(500'000);
    REQUIRE(mine.lease(shared.handle) == Status::ok);
    room.segment->peer(dead).life = layout::life(1, Phase::lost);
    peers::take_back(*room.segment, room.pages, dead);
    CHECK(room.segment->blocks()[own.handle.block].leases == 0);
    CHECK(room.segment->blocks()[shared.handle.block].leases == std::uint64_t{1} << alive);
    CHECK(mine.release(shared.handle.block, shared.handle.generation) == Status::ok);
    CHECK(return_orphans(memory, room.pages) == 1);
    for (std::uint64_t i = 0; i < memory.chunk_count(); ++i) CHECK(memory.chunks[i].owner == 0);
}

TEST_CASE("pages that were found before the system had no more go back", "[peers]") {
    Room room;
    REQUIRE(room.pages.reserve(0, 1, 1) == Status::ok);
    const auto before = resident(*room.segment);
    const std::uint64_t all = arena_memory(*room.segment).chunk_count();
    CHECK(room.pages.reserve(1, all, 1) == Status::no_memory);  // the last step ends behind the segment
    CHECK(resident(*room.segment) <= before + layout::page_bytes);
    CHECK(room.pages.reserve(1, all - 1, 1) == Status::ok);
    CHECK(resident(*room.segment) >= before + (all - 1) * layout::chunk_bytes);
    room.pages.punch(1, all - 1);
    CHECK(resident(*room.segment) <= before + layout::page_bytes);
}

TEST_CASE("after a burst of large blocks little more than the room before it stays", "[peers]") {
    Segment segment = Segment::create("burst", 64 << 10, std::uint64_t{1} << 30);
    SegmentPages pages(segment);
    layout::Counters counters{};
    Arena arena(arena_memory(segment), pages, 0, 1, counters);
    const std::uint64_t before = resident(segment);
    std::vector<Handle> blocks;
    for (int i = 0; i < 250; ++i) {
        const auto made = arena.allocate(1 << 20);
        REQUIRE(made.status == Status::ok);
        blocks.push_back(made.handle);
    }
    CHECK(resident(segment) - before >= std::uint64_t{250} << 20);
    for (const Handle& block : blocks) REQUIRE(arena.release(block.block, block.generation) == Status::ok);
    arena.trim(Clock::now() + 1s);
    CHECK(resident(segment) - before <= 250 * layout::page_bytes);
}

}  // namespace isthmus
