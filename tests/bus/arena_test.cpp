#include "bus/arena.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>
#include <random>
#include <set>
#include <thread>

#include "catch.hpp"
#include "support.hpp"

namespace isthmus {
namespace {

using test::ArenaBox;
using namespace std::chrono_literals;

constexpr std::uint64_t chunk = layout::chunk_bytes;

Handle take(Arena& arena, std::uint64_t bytes) {
    const auto made = arena.allocate(bytes);
    REQUIRE(made.status == Status::ok);
    REQUIRE(made.handle.bytes == bytes);
    return made.handle;
}

Status give(Arena& arena, const Handle& handle) { return arena.release(handle.block, handle.generation); }

const auto long_ago = std::chrono::steady_clock::time_point::min();
const auto any_time = std::chrono::steady_clock::time_point::max();

}  // namespace

TEST_CASE("a block has room, is aligned and is apart from all others", "[arena]") {
    ArenaBox box(64);
    auto arena = box.arena(3);
    std::vector<Handle> blocks;
    for (const std::uint64_t bytes :
         {0ul, 1ul, 255ul, 256ul, 257ul, 4095ul, 4096ul, 5000ul, 131072ul, 131073ul, 262144ul, 300000ul, 1048577ul}) {
        for (int i = 0; i < 3; ++i) blocks.push_back(take(*arena, bytes));
        const Handle& last = blocks.back();
        CHECK(last.offset % (bytes >= 4096 ? 4096 : 256) == 0);
        CHECK(last.offset + bytes <= box.memory.bytes);
        const auto extent = box.memory.extent(last.block);
        CHECK(extent.offset == last.offset);
        CHECK(extent.bytes >= bytes);
    }
    for (const Handle& a : blocks) {
        for (const Handle& b : blocks) {
            if (&a == &b) continue;
            const auto whole_a = box.memory.extent(a.block), whole_b = box.memory.extent(b.block);
            CHECK(
                (whole_a.offset + whole_a.bytes <= whole_b.offset || whole_b.offset + whole_b.bytes <= whole_a.offset));
        }
    }
    CHECK(arena->usage().held_blocks == blocks.size());
}

TEST_CASE("a released block is reused while it is warm, under a new generation", "[arena]") {
    ArenaBox box(4);
    auto arena = box.arena(0);
    for (const std::uint64_t bytes : {1000ul, 500000ul}) {
        const Handle first = take(*arena, bytes);
        CHECK(give(*arena, first) == Status::ok);
        const Handle second = take(*arena, bytes);
        CHECK(second.block == first.block);
        CHECK(second.offset == first.offset);
        CHECK(second.generation == first.generation + 1);
        CHECK(give(*arena, second) == Status::ok);
    }
}

TEST_CASE("late and double releases are refused and counted", "[arena]") {
    ArenaBox box(4);
    auto arena = box.arena(0);
    const Handle block = take(*arena, 1000);
    CHECK(give(*arena, block) == Status::ok);
    CHECK(give(*arena, block) == Status::stale);
    const Handle again = take(*arena, 1000);
    REQUIRE(again.block == block.block);
    CHECK(give(*arena, block) == Status::stale);
    CHECK(arena->retain(block.block, block.generation) == Status::stale);
    CHECK(box.counters[0].leases_refused == 3);
    CHECK(box.blocks[again.block].leases == 1);
    CHECK(give(*arena, again) == Status::ok);
    CHECK(box.counters[0].leases_taken == 2);
    CHECK(box.counters[0].leases_released == 2);
}

TEST_CASE("a foreign release changes nothing but the counter", "[arena]") {
    ArenaBox box(4);
    auto owner = box.arena(0), stranger = box.arena(1);
    const Handle block = take(*owner, 1000);
    CHECK(give(*stranger, block) == Status::stale);
    CHECK(stranger->release(123456789, 1) == Status::stale);
    CHECK(box.blocks[block.block].leases == 1);
    CHECK(box.counters[1].leases_refused == 2);
    CHECK(box.counters[0].leases_refused == 0);
}

TEST_CASE("uses are counted, and the last one clears the lease", "[arena]") {
    ArenaBox box(4);
    auto arena = box.arena(5);
    const Handle block = take(*arena, 1000);
    CHECK(arena->retain(block.block, block.generation) == Status::ok);
    CHECK(arena->lease(block) == Status::ok);
    CHECK(give(*arena, block) == Status::ok);
    CHECK(give(*arena, block) == Status::ok);
    CHECK(box.blocks[block.block].leases == std::uint64_t{1} << 5);
    CHECK(give(*arena, block) == Status::ok);
    CHECK(box.blocks[block.block].leases == 0);
    CHECK(give(*arena, block) == Status::stale);
}

TEST_CASE("a block stands as long as anybody leases it", "[arena]") {
    ArenaBox box(1);
    auto owner = box.arena(0), reader = box.arena(63);
    const Handle block = take(*owner, 131072);
    const Handle other = take(*owner, 131072);
    CHECK(reader->lease(block) == Status::ok);
    CHECK(give(*owner, block) == Status::ok);
    CHECK(owner->allocate(131072).status == Status::no_memory);
    CHECK(give(*reader, block) == Status::ok);
    const Handle reused = take(*owner, 131072);
    CHECK(reused.block == block.block);
    CHECK(reader->lease(block) == Status::stale);
    CHECK(box.blocks[block.block].leases == 1);
    CHECK(give(*owner, other) == Status::ok);
}

TEST_CASE("a lease on what nobody vouches for is stale and leaves no bit", "[arena]") {
    ArenaBox box(4);
    auto owner = box.arena(0), late = box.arena(1);
    const Handle block = take(*owner, 100);
    give(*owner, block);
    CHECK(late->lease(block) == Status::stale);
    CHECK(box.blocks[block.block].leases == 0);
    CHECK(box.counters[1].leases_refused == 1);
}

TEST_CASE("a lease on a block whose memory went back to the bus is stale", "[arena]") {
    ArenaBox box(4);
    auto owner = box.arena(0), late = box.arena(1);
    const Handle small = take(*owner, 100), span = take(*owner, 2 * chunk);
    give(*owner, small);
    give(*owner, span);
    owner->trim(any_time);
    REQUIRE(box.owned_chunks() == 0);
    CHECK(late->lease(small) == Status::stale);
    CHECK(late->lease(span) == Status::stale);
    CHECK(box.leased_blocks() == 0);
}

TEST_CASE("a handle that lies about its block is corrupt", "[arena]") {
    ArenaBox box(8);
    auto owner = box.arena(0), reader = box.arena(1);
    const Handle small = take(*owner, 256), span = take(*owner, 2 * chunk);
    const auto lie = [&](Handle handle, auto&& change) {
        change(handle);
        return reader->lease(handle);
    };
    CHECK(lie(small, [](Handle& h) { h.bytes = 257; }) == Status::corrupt);
    CHECK(lie(small, [](Handle& h) { h.bytes = ~std::uint64_t{0}; }) == Status::corrupt);
    CHECK(lie(small, [](Handle& h) { h.offset -= 1; }) == Status::corrupt);
    CHECK(lie(small, [](Handle& h) { h.offset += 1; }) == Status::corrupt);
    CHECK(lie(small, [](Handle& h) { h.offset = ~std::uint64_t{0}; }) == Status::corrupt);
    CHECK(lie(small, [](Handle& h) { h.block = 8 * layout::blocks_per_chunk; }) == Status::corrupt);
    CHECK(lie(small, [](Handle& h) { h.block = 0xffffffff; }) == Status::corrupt);
    CHECK(lie(span, [](Handle& h) { h.bytes = 2 * chunk + 1; }) == Status::corrupt);
    CHECK(lie(span, [](Handle& h) { h.block += 1; }) == Status::corrupt);
    CHECK(lie(span, [](Handle& h) { h.offset += 1; }) == Status::corrupt);
    CHECK(reader->usage().held_blocks == 0);
    CHECK(reader->lease(small) == Status::ok);
}

TEST_CASE("an empty piece of no block is corrupt and touches nothing", "[arena]") {
    ArenaBox box(1);
    auto reader = box.arena(1);
    for (const std::uint32_t block : {1024u, 0x7fffffffu, 0xffffffffu})
        CHECK(reader->lease({0, 0, block, 0}) == Status::corrupt);
    CHECK(box.leased_blocks() == 0);
}

TEST_CASE("a slice of a block can be sent as it is", "[arena]") {
    ArenaBox box(8);
    auto owner = box.arena(0), reader = box.arena(1);
    for (const std::uint64_t bytes : {5000ul, 3 * chunk}) {
        const Handle block = take(*owner, bytes);
        const std::byte* memory = owner->at(block);
        const Handle slice = owner->find(memory + 1000, bytes - 2000);
        CHECK(slice.block == block.block);
        CHECK(slice.generation == block.generation);
        CHECK(slice.offset == block.offset + 1000);
        CHECK(slice.bytes == bytes - 2000);
        REQUIRE(reader->lease(slice) == Status::ok);
        CHECK(reader->find(memory + 2000, 10).block == block.block);
        CHECK(give(*reader, slice) == Status::ok);
        CHECK(reader->find(memory + 2000, 10).bytes == 0);
        CHECK(owner->find(memory + bytes - 1, 1).bytes == 1);
        CHECK(owner->find(memory + bytes - 1, 1u << 20).bytes == 0);
        CHECK(give(*owner, block) == Status::ok);
        CHECK(owner->find(memory, 1).bytes == 0);
    }
}

TEST_CASE("memory outside the arena is not found in it", "[arena]") {
    ArenaBox box(2);
    auto arena = box.arena(0);
    take(*arena, 100);
    const char outside = 'x';
    CHECK(arena->find(&outside, 1).bytes == 0);
    CHECK(arena->find(nullptr, 1).bytes == 0);
    CHECK(arena->find(box.memory.base - 1, 1).bytes == 0);
    CHECK(arena->find(box.memory.base + box.memory.bytes, 1).bytes == 0);
    CHECK(arena->find(box.memory.base + box.memory.bytes - 1, 1).bytes == 0);
    CHECK(arena->find(box.memory.base, ~std::uint64_t{0}).bytes == 0);
}

TEST_CASE("running out of memory is a value, and memory that comes back can be had again", "[arena]") {
    ArenaBox box(4);
    auto arena = box.arena(0);
    CHECK(arena->allocate(4 * chunk + 1).status == Status::too_large);
    std::vector<Handle> blocks;
    for (;;) {
        const auto made = arena->allocate(1000);
        if (made.status != Status::ok) {
            CHECK(made.status == Status::no_memory);
            break;
        }
        blocks.push_back(made.handle);
    }
    CHECK(blocks.size() == 4 * chunk / 1024);
    CHECK(arena->allocate(chunk).status == Status::no_memory);
    for (const Handle& block : blocks) CHECK(give(*arena, block) == Status::ok);
    CHECK(arena->allocate(1000).status == Status::ok);
}

TEST_CASE("a peer that has its share in use is refused more, and what it gives back counts", "[arena]") {
    ArenaBox box(8);
    auto greedy = box.arena(0), other = box.arena(1);
    greedy->set_quota(3 * chunk + chunk / 2);
    const auto large = greedy->allocate(2 * chunk), small = greedy->allocate(100);
    REQUIRE(small.status == Status::ok);
    CHECK(greedy->allocate(chunk).status == Status::over_quota);
    CHECK(greedy->allocate(3000).status == Status::over_quota);
    CHECK(greedy->allocate(100).status == Status::ok);
    CHECK(other->allocate(4 * chunk).status == Status::ok);
    REQUIRE(give(*greedy, large.handle) == Status::ok);
    CHECK(greedy->allocate(chunk).status == Status::ok);
    CHECK(greedy->allocate(3000).status == Status::ok);
}

TEST_CASE("idle memory of one size does not stand in the way of another", "[arena]") {
    ArenaBox box(4);
    auto arena = box.arena(0);
    give(*arena, take(*arena, 4 * chunk));
    const Handle small = take(*arena, 1);
    give(*arena, small);
    const Handle span = take(*arena, 4 * chunk);
    give(*arena, span);
    const Handle middle = take(*arena, 2 * chunk);
    give(*arena, take(*arena, 100));
    const Handle other = take(*arena, 60000);
    CHECK(give(*arena, middle) == Status::ok);
    CHECK(give(*arena, other) == Status::ok);
    take(*arena, 4 * chunk);
}

TEST_CASE("when the system has no pages left the chunk is not kept", "[arena]") {
    ArenaBox box(4);
    auto arena = box.arena(0);
    box.pages.refuse = true;
    CHECK(arena->allocate(100).status == Status::no_memory);
    CHECK(arena->allocate(2 * chunk).status == Status::no_memory);
    CHECK(box.owned_chunks() == 0);
    box.pages.refuse = false;
    CHECK(arena->allocate(2 * chunk).status == Status::ok);
}

TEST_CASE("trim gives back what is idle and only that", "[arena]") {
    ArenaBox box(8);
    auto arena = box.arena(0);
    const Handle kept = take(*arena, 100), small = take(*arena, 5000), span = take(*arena, 3 * chunk);
    give(*arena, small);
    give(*arena, span);
    arena->trim(long_ago);
    CHECK(box.owned_chunks() == 5);
    arena->trim(any_time);
    CHECK(box.owned_chunks() == 1);
    CHECK(box.pages.punched == 4);
    CHECK(box.counters[0].chunks_taken == 5);
    CHECK(box.counters[0].chunks_returned == 4);
    CHECK(give(*arena, kept) == Status::ok);
    arena->trim(any_time);
    CHECK(box.owned_chunks() == 0);
}

TEST_CASE("an allocation waits for what is being given back, and is not refused", "[arena]") {
    ArenaBox box(4);
    auto arena = box.arena(0);
    if (GENERATE(false, true)) arena->set_quota(4 * chunk);
    give(*arena, take(*arena, 2 * chunk));
    give(*arena, take(*arena, chunk));
    std::future<Arena::Allocation> made;
    box.pages.on_punch = [&] {
        if (!made.valid()) made = std::async(std::launch::async, [&] { return arena->allocate(4 * chunk); });
        CHECK(made.wait_for(20ms) == std::future_status::timeout);
    };
    arena->trim(any_time);
    CHECK(made.get().status == Status::ok);
}

TEST_CASE("with poisoning, what is found free reads as poison, and what is leased does not", "[arena]") {
    ArenaBox box(8);
    auto owner = box.arena(0), reader = box.arena(1);
    owner->set_poisoning(true);
    for (const std::uint64_t bytes : {256ul, 5000ul, 131072ul, 2 * chunk}) {
        const Handle block = take(*owner, bytes);
        std::memset(owner->at(block), 1, bytes);
        const auto all = [&](std::byte value) {
            const auto* first = owner->at(block);
            return std::all_of(first, first + bytes, [value](std::byte each) { return each == value; });
        };
        CHECK(reader->lease(block) == Status::ok);
        give(*owner, block);
        owner->trim(long_ago);
        CHECK(all(std::byte{1}));
        give(*reader, block);
        owner->trim(long_ago);
        CHECK(all(Arena::poison));
    }
}

TEST_CASE("two peers share one arena", "[arena]") {
    ArenaBox box(4);
    auto a = box.arena(0), b = box.arena(1);
    const Handle of_a = take(*a, 3 * chunk), of_b = take(*b, chunk);
    CHECK(b->allocate(1).status == Status::no_memory);
    give(*a, of_a);
    a->trim(any_time);
    CHECK(b->allocate(3 * chunk).status == Status::ok);
    CHECK(give(*b, of_b) == Status::ok);
}

TEST_CASE("whoever leaves gives everything back at once", "[arena]") {
    ArenaBox box(8);
    auto arena = box.arena(9);
    take(*arena, 100);
    take(*arena, 5000);
    take(*arena, 2 * chunk);
    arena->leave();
    CHECK(box.owned_chunks() == 0);
    CHECK(box.leased_blocks() == 0);
    CHECK(arena->usage().owned_chunks == 0);
}

TEST_CASE("what others still lease survives its owner as an orphan until they let go", "[arena]") {
    ArenaBox box(8);
    auto owner = box.arena(0), reader = box.arena(1);
    const Handle small = take(*owner, 100), span = take(*owner, 3 * chunk);
    std::memset(owner->at(span), 7, span.bytes);
    REQUIRE(reader->lease(small) == Status::ok);
    REQUIRE(reader->lease(span) == Status::ok);
    owner->leave();
    CHECK(box.owned_chunks() == 4);
    CHECK(return_orphans(box.memory, box.pages) == 0);
    CHECK(*reader->at(span) == std::byte{7});
    auto third = box.arena(2);
    CHECK(third->allocate(5 * chunk).status == Status::no_memory);
    CHECK(give(*reader, span) == Status::ok);
    CHECK(return_orphans(box.memory, box.pages) == 3);
    CHECK(give(*reader, small) == Status::ok);
    CHECK(return_orphans(box.memory, box.pages) == 1);
    CHECK(box.owned_chunks() == 0);
    CHECK(third->allocate(8 * chunk).status == Status::ok);
}

TEST_CASE("the broker takes back what a dead peer leased and owned, and nothing else", "[arena]") {
    ArenaBox box(16);
    auto dead = box.arena(4, 7), alive = box.arena(5);
    const Handle its_own = take(*dead, 100), its_span = take(*dead, 2 * chunk), shared = take(*dead, 1000);
    const Handle lent = take(*alive, 100), kept = take(*alive, 100);
    REQUIRE(alive->lease(shared) == Status::ok);
    REQUIRE(dead->lease(lent) == Status::ok);
    reclaim_leases(box.memory, 4);
    CHECK(box.blocks[its_own.block].leases == 0);
    CHECK(box.blocks[its_span.block].leases == 0);
    CHECK(box.blocks[shared.block].leases == std::uint64_t{1} << 5);
    CHECK(box.blocks[lent.block].leases == std::uint64_t{1} << 5);
    CHECK(box.blocks[kept.block].leases == std::uint64_t{1} << 5);
    CHECK(return_orphans(box.memory, box.pages) == 3);
    CHECK(give(*alive, shared) == Status::ok);
    CHECK(return_orphans(box.memory, box.pages) == 1);
    CHECK(give(*alive, lent) == Status::ok);
    CHECK(give(*alive, kept) == Status::ok);
    alive->trim(any_time);
    CHECK(box.owned_chunks() == 0);
    CHECK(box.leased_blocks() == 0);
}

TEST_CASE("a peer that dies between setting and undoing a bit on a free block leaves nothing behind", "[arena]") {
    ArenaBox box(4);
    auto owner = box.arena(0);
    for (const std::uint64_t bytes : {100ul, 2 * chunk}) {
        const Handle block = take(*owner, bytes);
        give(*owner, block);
        owner->trim(any_time);
        box.blocks[block.block].leases |= 2;  // a taker with a stale handle, killed before it looked
        reclaim_leases(box.memory, 1);
        CHECK(box.blocks[block.block].leases == 0);
    }
}

TEST_CASE("a peer that dies at any step of taking or returning chunks leaves them to be had", "[arena]") {
    const auto owner = layout::owner_word(3, 4);
    for (int step = 0; step <= 4; ++step) {
        ArenaBox box(4);
        for (int i = 0; i < 2; ++i) {
            box.chunks[i].owner = owner;
            if (i == 1 && step < 1) box.chunks[i].owner = 0;
            if (step >= 2) box.chunks[i].block_bytes = 0;
            if (step == 3 && i == 0) box.chunks[i].span = 2;
            if (step == 4 && i == 0) box.chunks[i].block_bytes = 512;
        }
        reclaim_leases(box.memory, 4);
        return_orphans(box.memory, box.pages);
        CHECK(box.owned_chunks() == 0);
    }
}

TEST_CASE("a dead owner's lies about its chunks free nothing that others lease", "[arena]") {
    for (const std::uint32_t block_bytes : {1u, 0x40000000u, 0xffffffffu}) {
        ArenaBox box(4);
        auto liar = box.arena(4), reader = box.arena(5);
        const Handle block = take(*liar, 1000), later = take(*liar, 1000);
        REQUIRE(reader->lease(later) == Status::ok);
        box.chunks[0].block_bytes = block_bytes;
        reclaim_leases(box.memory, 4);
        CHECK(return_orphans(box.memory, box.pages) == 0);
        CHECK(box.blocks[block.block].leases == 0);
        give(*reader, later);
        CHECK(return_orphans(box.memory, box.pages) == 1);
    }
    // A span that claims the chunks of another.
    ArenaBox box(8);
    auto liar = box.arena(4), honest = box.arena(6), reader = box.arena(5);
    take(*liar, chunk);
    const Handle lent = take(*honest, 2 * chunk);
    REQUIRE(reader->lease(lent) == Status::ok);
    honest->leave();
    box.chunks[0].span = 8;
    reclaim_leases(box.memory, 4);
    CHECK(return_orphans(box.memory, box.pages) == 1);
    CHECK(box.owned_chunks() == 2);
    box.chunks[0].span = 0xffffffff;
    give(*reader, lent);
    CHECK(return_orphans(box.memory, box.pages) == 2);
}

TEST_CASE("a handle whose owner lies about the chunk never reaches beyond the arena", "[arena]") {
    ArenaBox box(4);
    auto owner = box.arena(0), reader = box.arena(1);
    const Handle block = take(*owner, 1000);
    for (const std::uint32_t block_bytes : {0u, 1u, 3u, 262145u, 0x80000000u, 0xffffffffu}) {
        for (const std::uint32_t span : {0u, 1u, 5u, 0xffffffffu}) {
            box.chunks[0].block_bytes = block_bytes;
            box.chunks[0].span = span;
            for (std::uint32_t index : {0u, 1u, 1023u}) {
                const auto extent = box.memory.extent(index);
                CHECK(extent.offset + extent.bytes <= box.memory.bytes);
            }
            (void)reader->lease(block);
            (void)reader->find(box.memory.base + chunk - 1, 1);
            (void)owner->find(box.memory.base + 4 * chunk - 1, 1);
        }
    }
}

TEST_CASE("an owner hands out its own blocks, whatever others write into its notes", "[arena]") {
    for (const std::uint32_t block_bytes : {0u, 1u, 512u, 0xffffffffu}) {
        ArenaBox box(4);
        auto other = box.arena(1), owner = box.arena(0);
        take(*other, chunk);
        const Handle first = take(*owner, 1000);
        box.chunks[1].block_bytes = block_bytes;
        box.chunks[1].span = block_bytes;
        const Handle second = take(*owner, 1000);
        CHECK(second.offset == first.offset + 1024);
    }
}

TEST_CASE("a stale taker that is in the way for a moment costs its block only", "[arena]") {
    ArenaBox box(1);
    auto owner = box.arena(0);
    const Handle block = take(*owner, 100000);
    give(*owner, block);
    box.blocks[block.block].leases |= 1u << 9;
    const Handle other = take(*owner, 100000);
    CHECK(other.block != block.block);
    CHECK(owner->allocate(100000).status == Status::no_memory);
    box.blocks[block.block].leases &= ~(std::uint64_t{1} << 9);
    CHECK(take(*owner, 100000).block == block.block);
}

TEST_CASE("two peers hammer blocks and never see a byte that is not theirs", "[arena][threads]") {
    // One allocates, fills and hands over; the other leases, lets the first one release, checks, releases. A block that were
    // handed out under a lease would change under the reader's eyes.
    ArenaBox box(8);
    auto owner = box.arena(0), reader = box.arena(1);
    constexpr int rounds = 4000;
    struct Lane {
        std::atomic<int> state{0};  // 0: owner's, 1: offered, 2: leased
        Handle handle;
        std::uint8_t fill = 0;
    };
    std::array<Lane, 6> lanes;
    std::atomic<bool> over{false};
    std::atomic<int> wrong{0};
    std::thread other([&] {
        std::vector<Handle> old;
        while (!over) {
            std::this_thread::sleep_for(10us);  // on a busy machine the other one is to run
            for (Lane& lane : lanes) {
                if (lane.state.load(std::memory_order_acquire) != 1) continue;
                const Handle handle = lane.handle;
                const std::uint8_t fill = lane.fill;
                wrong += reader->lease(handle) != Status::ok;
                lane.state.store(2, std::memory_order_release);
                for (int look = 0; look < 3; ++look) {
                    const auto* bytes = reinterpret_cast<const std::uint8_t*>(reader->at(handle));
                    for (std::uint64_t i = 0; i < handle.bytes; i += 61) wrong += bytes[i] != fill;
                    std::this_thread::yield();
                }
                wrong += reader->release(handle.block, handle.generation) != Status::ok;
                old.push_back(handle);
                // A handle from the past now and then: it must be refused, or be a block that still is what it was.
                const Handle& past = old[old.size() * 7 / 8];
                if (reader->lease(past) == Status::ok)
                    wrong += reader->release(past.block, past.generation) != Status::ok;
            }
        }
    });
    std::mt19937 random(1);
    int handed = 0;
    const auto deadline = test::Clock::now() + 1500ms;
    while (handed < rounds && test::Clock::now() < deadline) {
        std::this_thread::sleep_for(10us);
        for (Lane& lane : lanes) {
            if (lane.state.load(std::memory_order_acquire) == 1) continue;
            if (lane.state.load(std::memory_order_acquire) == 2) {
                wrong += owner->release(lane.handle.block, lane.handle.generation) != Status::ok;
            }
            const std::uint64_t bytes = handed % 50 == 0 ? chunk + random() % chunk : 256 + random() % 3000;
            const auto made = owner->allocate(bytes);
            if (made.status != Status::ok) {
                lane.state.store(0, std::memory_order_relaxed);
                continue;
            }
            lane.handle = made.handle;
            lane.fill = static_cast<std::uint8_t>(random());
            std::memset(owner->at(made.handle), lane.fill, bytes);
            lane.state.store(1, std::memory_order_release);
            ++handed;
        }
        if (handed % 500 == 0) owner->trim(any_time);
    }
    test::soon([&] { return std::all_of(lanes.begin(), lanes.end(), [](Lane& lane) { return lane.state != 1; }); },
               20s);
    over = true;
    other.join();
    CHECK(wrong == 0);
    CHECK(handed > 6);
    owner->leave();
    reader->leave();
    return_orphans(box.memory, box.pages);
    CHECK(box.owned_chunks() == 0);
    CHECK(box.leased_blocks() == 0);
}

TEST_CASE("finalizers may release on any thread of the peer", "[arena][threads]") {
    ArenaBox box(8);
    auto arena = box.arena(0);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            std::vector<Handle> mine;
            for (int i = 0; i < 500; ++i) {
                const auto made = arena->allocate(static_cast<std::uint64_t>(300 + t * 1000));
                if (made.status == Status::ok) mine.push_back(made.handle);
                if (i % 3 == 0 && !mine.empty()) {
                    (void)arena->retain(mine.back().block, mine.back().generation);
                    (void)give(*arena, mine.back());
                    (void)give(*arena, mine.back());
                    mine.pop_back();
                }
            }
            for (const Handle& handle : mine) (void)give(*arena, handle);
        });
    }
    for (auto& thread : threads) thread.join();
    CHECK(box.counters[0].leases_refused == 0);
    CHECK(arena->usage().held_blocks == 0);
    arena->trim(any_time);
    CHECK(box.owned_chunks() == 0);
}

}  // namespace isthmus
