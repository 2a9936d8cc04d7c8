#include "bus/link.hpp"

#include <poll.h>
#include <sys/mman.h>

#include <csignal>
#include <map>
#include <thread>

#include "catch.hpp"
#include "support.hpp"

namespace isthmus {
namespace {

using namespace test;
using wire::Draft;
using wire::Kind;
using wire::Tag;

constexpr std::uint64_t ring_bytes = 64 << 10;
constexpr std::uint64_t arena_bytes = 8 << 20;

/// One end of a link, without a broker: what Bus does around it is left out.
struct End : Correspondent {
    End(const Segment& segment, SegmentPages& pages, std::uint32_t slot)
        : slot(slot),
          bell(doorbell::open()),
          arena(arena_memory(segment), pages, slot, 1, segment.peer(slot).counters) {
        segment.peer(slot).life = layout::life(1, layout::Phase::live);
    }
    void open(const Segment& segment, const End& other) {
        auto [status, made] = Link::open(segment, arena, {slot, 1, other.slot, 1}, other.bell.copy());
        REQUIRE(status == Status::ok);
        link = std::move(made);
    }
    Link::Received receive() { return receive_from(*link); }
    Status call(std::uint64_t id, std::size_t bytes = 0) { return link->submit(draft(Kind::call, id, bytes)); }
    Status post(std::uint64_t id, std::size_t bytes = 0) { return link->submit(draft(Kind::post, id, bytes)); }
    Status stream(std::uint64_t id, std::uint32_t credit) {
        return link->submit({.kind = Kind::call, .id = id, .number = credit, .flags = wire::frame_streams});
    }
    Status items(std::uint64_t id, std::uint32_t count) {
        values.clear();
        for (std::uint32_t i = 0; i < count; ++i) values.real(i);
        return link->submit({.kind = Kind::item, .id = id, .number = count, .cells = values.cells()});
    }
    Status reply(std::uint64_t id, std::size_t bytes = 0) { return link->answer(draft(Kind::reply, id, bytes)); }
    bool rung() {
        pollfd one{bell.get(), POLLIN, 0};
        const bool rang = ::poll(&one, 1, 0) > 0;
        doorbell::silence(bell.get());
        return rang;
    }
    void flush() {
        link->pump();
        link->publish();
    }

    std::uint32_t slot;
    Fd bell;
    Arena arena;
    std::unique_ptr<Link> link;
};

struct Pair {
    explicit Pair(bool opened = true) {
        if (!opened) return;
        a.open(segment, b);
        b.open(segment, a);
    }
    std::uint64_t owned_chunks() const {
        std::uint64_t owned = 0;
        for (std::uint64_t i = 0; i < segment.geometry().chunk_count(); ++i) owned += segment.chunks()[i].owner != 0;
        return owned;
    }

    Segment segment = Segment::create("pair", ring_bytes, arena_bytes);
    SegmentPages pages{segment};
    End a{segment, pages, 3}, b{segment, pages, 60};
};

/// Compared without printing a megabyte when it differs.
bool same(std::span<const std::byte> heap, const std::string& text) { return view(heap) == text; }

/// Writes a record into the ring from `a` to `b` behind everyone's back, and shows it.
void forge(Pair& pair, layout::RecordKind kind, std::span<const std::byte> bytes) {
    auto& positions = pair.segment.positions(pair.a.slot, pair.b.slot);
    std::byte* data = pair.segment.at(pair.segment.ring_offset(pair.a.slot, pair.b.slot));
    const std::uint64_t at = positions.tail.load() % ring_bytes;
    const layout::RecordHeader header{static_cast<std::uint32_t>(bytes.size()), static_cast<std::uint32_t>(kind)};
    std::memcpy(data + at, &header, sizeof header);
    if (!bytes.empty()) std::memcpy(data + at + sizeof header, bytes.data(), bytes.size());
    positions.tail += ring::record_bytes(bytes.size());
}

void forge(Pair& pair, const Handle& block) {
    forge(pair, layout::RecordKind::indirect, std::as_bytes(std::span(&block, 1)));
}

}  // namespace

TEST_CASE("a call goes there and its reply comes back", "[link]") {
    Pair pair;
    REQUIRE(pair.a.call(7) == Status::ok);
    CHECK(pair.a.link->in_flight() == 1);
    CHECK(pair.b.receive().status == Status::empty);
    pair.a.link->publish();
    CHECK(pair.b.link->ready());
    const auto call = pair.b.receive();
    REQUIRE(call.status == Status::ok);
    CHECK(call.frame.kind == Kind::call);
    CHECK(call.frame.id == 7);
    REQUIRE(pair.b.reply(7) == Status::ok);
    pair.b.link->publish();
    const auto reply = pair.a.receive();
    REQUIRE(reply.status == Status::ok);
    CHECK(reply.frame.kind == Kind::reply);
    CHECK(reply.frame.id == 7);
    CHECK(pair.a.link->in_flight() == 0);
    CHECK(pair.a.receive().status == Status::empty);
    const auto& counters = pair.segment.peer(pair.a.slot).counters;
    CHECK(counters.calls == 1);
    CHECK(counters.frames_sent == 1);
    CHECK(counters.frames_received == 1);
    CHECK(pair.segment.peer(pair.b.slot).counters.replies == 1);
}

TEST_CASE("what is submitted before the other side is there waits for it", "[link]") {
    Pair pair(false);
    pair.a.open(pair.segment, pair.b);
    for (std::uint64_t id = 1; id <= 5; ++id) REQUIRE(pair.a.call(id) == Status::ok);
    pair.a.flush();
    CHECK(pair.a.link->waiting() == 5);
    CHECK(pair.segment.positions(pair.a.slot, pair.b.slot).tail == 0);
    // The other half of the positions may hold anything until its owner has attached.
    pair.segment.positions(pair.a.slot, pair.b.slot).head = 0x123456789;
    pair.a.flush();
    CHECK(pair.a.link->state() == Status::ok);
    pair.b.open(pair.segment, pair.a);
    pair.a.flush();
    CHECK(pair.a.link->waiting() == 0);
    for (std::uint64_t id = 1; id <= 5; ++id) CHECK(pair.b.receive().frame.id == id);
}

TEST_CASE("a link of another life is not taken for this one", "[link]") {
    Pair pair(false);
    pair.a.open(pair.segment, pair.b);
    pair.segment.attachments(pair.a.slot).from[pair.b.slot] = layout::attach_word(2, 1);
    REQUIRE(pair.a.call(1) == Status::ok);
    pair.a.flush();
    CHECK(pair.a.link->waiting() == 1);
    CHECK(pair.a.receive().status == Status::empty);
}

TEST_CASE("no more calls are in flight than have room for their completions", "[link]") {
    Pair pair;
    const std::uint32_t most = pair.a.link->most_in_flight();
    CHECK(most == (ring_bytes / 2 - Link::cancel_bytes) / Link::completion_bytes - 2);
    for (std::uint64_t id = 1; id <= most + 10; ++id) REQUIRE(pair.a.call(id) == Status::ok);
    CHECK(pair.a.link->in_flight() == most);
    CHECK(pair.a.link->waiting() == 10);
    pair.a.flush();
    for (std::uint64_t id = 1; id <= most; ++id) {
        REQUIRE(pair.b.receive().frame.id == id);
        REQUIRE(pair.b.reply(id) == Status::ok);
    }
    CHECK(pair.b.receive().status == Status::empty);
    pair.b.flush();
    for (std::uint64_t id = 1; id <= most; ++id) REQUIRE(pair.a.receive().frame.id == id);
    pair.a.flush();
    CHECK(pair.a.link->in_flight() == 10);
    CHECK(pair.a.link->waiting() == 0);
}

TEST_CASE("items and credits pass the calls that wait for others to end; posts stay behind them", "[link]") {
    Pair pair;
    const std::uint32_t most = pair.a.link->most_in_flight();
    REQUIRE(pair.b.stream(8, 1) == Status::ok);
    pair.b.flush();
    REQUIRE(pair.a.receive().frame.id == 8);
    for (std::uint64_t id = 1; id <= most + 5; ++id) REQUIRE(pair.a.call(id) == Status::ok);
    pair.a.flush();
    for (std::uint64_t id = 1; id <= most; ++id) REQUIRE(pair.b.receive().frame.id == id);
    pair.b.flush();
    REQUIRE(pair.a.post(7) == Status::ok);
    REQUIRE(pair.a.items(8, 1) == Status::ok);
    REQUIRE(pair.a.link->submit({.kind = Kind::credit, .id = 9, .number = 3}) == Status::ok);
    pair.a.flush();
    CHECK(pair.a.link->waiting() >= 6);
    CHECK(pair.b.receive().frame.kind == Kind::item);
    CHECK(pair.b.receive().frame.number == 3);
    CHECK(pair.b.receive().status == Status::empty);
    for (std::uint64_t id = 1; id <= most; ++id) REQUIRE(pair.b.reply(id) == Status::ok);
    pair.b.flush();
    while (pair.a.receive().status == Status::ok) {
    }
    pair.a.flush();
    for (std::uint64_t id = most + 1; id <= most + 5; ++id) REQUIRE(pair.b.receive().frame.id == id);
    CHECK(pair.b.receive().frame.kind == Kind::post);
    CHECK(pair.a.link->waiting() == 0);
}

TEST_CASE("a stream sends as many items as were asked for, and a peer that sends more loses its link", "[link]") {
    const auto after = [](std::uint32_t granted, std::uint32_t more, std::uint32_t items) {
        Pair pair;
        REQUIRE(pair.a.stream(3, granted) == Status::ok);
        REQUIRE(pair.a.link->submit({.kind = Kind::credit, .id = 3, .number = more}) == Status::ok);
        pair.a.flush();
        REQUIRE(pair.b.items(3, 2) == Status::ok);
        REQUIRE(pair.b.items(3, items) == Status::ok);
        pair.b.flush();
        CHECK(pair.a.receive().status == Status::ok);
        return pair.a.receive().status;
    };
    CHECK(after(5, 0, 3) == Status::ok);
    CHECK(after(5, 1, 4) == Status::ok);
    CHECK(after(5, 0, 4) == Status::corrupt);
    CHECK(after(5, 0, 0) == Status::corrupt);

    for (const bool has_ended : {false, true}) {  // a stream that has, or a call that was none
        Pair pair;
        REQUIRE((has_ended ? pair.a.stream(1, 9) : pair.a.call(1)) == Status::ok);
        pair.a.flush();
        REQUIRE(pair.b.receive().status == Status::ok);
        if (has_ended) REQUIRE(pair.b.reply(1) == Status::ok);
        REQUIRE(pair.b.items(1, 1) == Status::ok);
        pair.b.flush();
        if (has_ended) CHECK(pair.a.receive().status == Status::ok);
        CHECK(pair.a.receive().status == Status::corrupt);
    }
}

TEST_CASE("the end of a stream stays behind its items, also behind those that wait for room", "[link]") {
    Pair pair;
    REQUIRE(pair.a.stream(1, 1'000'000) == Status::ok);
    pair.a.flush();
    REQUIRE(pair.b.receive().frame.id == 1);
    std::uint64_t sent = 0;
    for (; pair.b.link->waiting() < 3; ++sent) REQUIRE(pair.b.items(1, 100) == Status::ok);
    REQUIRE(pair.b.link->answer({.kind = Kind::error, .status = Status::cancelled, .id = 1}) == Status::ok);
    std::uint64_t got = 0;
    for (;;) {
        pair.b.flush();
        const auto received = pair.a.receive();
        pair.a.flush();
        REQUIRE(received.status == Status::ok);
        if (received.frame.kind == Kind::error) break;
        ++got;
    }
    CHECK(got == sent);
}

TEST_CASE("a call that waits is taken back; the others are cancelled past everything that waits", "[link]") {
    Pair pair;
    const std::uint32_t most = pair.a.link->most_in_flight();
    const std::uint64_t calls = 4 * most;
    for (std::uint64_t id = 1; id <= calls; ++id) REQUIRE(pair.a.call(id, id % 100 == 0 ? 20'000 : 10) == Status::ok);
    pair.a.flush();
    const std::uint64_t sent = pair.a.link->in_flight();
    std::uint64_t withdrawn = 0;
    for (std::uint64_t id = 1; id <= calls; ++id) {
        const bool taken_back = pair.a.link->cancel(id, [&](const wire::Draft& draft) { withdrawn += draft.id == id; });
        CHECK(taken_back == (id > sent));
    }
    CHECK(withdrawn == calls - sent);
    pair.a.flush();
    CHECK(pair.a.link->waiting() == 0);
    // Who reads what is there before it begins has read that nobody waits for it.
    std::vector<std::uint64_t> arrived, cancelled;
    for (auto got = pair.b.receive(); got.status == Status::ok; got = pair.b.receive()) {
        if (got.frame.kind == Kind::call) arrived.push_back(got.frame.id);
        if (got.frame.kind != Kind::cancel) continue;
        for (const wire::Cell& cell : got.frame.cells) cancelled.push_back(cell.bits);
    }
    CHECK(arrived.size() == sent);
    CHECK(cancelled == arrived);
    for (const std::uint64_t id : arrived) REQUIRE(pair.b.reply(id) == Status::ok);
    pair.b.flush();
    while (pair.a.receive().status == Status::ok) {
    }
    pair.a.flush();
    CHECK(pair.a.link->in_flight() == 0);
    CHECK(pair.a.arena.usage().held_blocks == 0);
}

TEST_CASE("with both rings full both ways every call gets its one answer", "[link]") {
    for (const std::size_t answer_bytes : {std::size_t{0}, std::size_t{40}, std::size_t{3000}, std::size_t{20000}}) {
        Pair pair;
        constexpr std::uint64_t calls = 300;
        for (std::uint64_t id = 1; id <= calls; ++id) {
            REQUIRE(pair.a.call(id, 700) == Status::ok);
            REQUIRE(pair.b.call(id, 700) == Status::ok);
        }
        for (std::uint64_t id = 1; id <= 20; ++id) {
            REQUIRE(pair.a.post(1000 + id, 8000) == Status::ok);
            REQUIRE(pair.b.post(1000 + id, 8000) == Status::ok);
        }
        std::map<std::uint64_t, int> answered[2];
        std::size_t posts = 0;
        End* const ends[] = {&pair.a, &pair.b};
        for (int lap = 0; lap < 1000 && answered[0].size() + answered[1].size() + posts < 2 * calls + 40; ++lap) {
            for (int side : {0, 1}) {
                End& end = *ends[side];
                for (auto got = end.receive(); got.status != Status::empty; got = end.receive()) {
                    REQUIRE(got.status == Status::ok);
                    if (got.frame.kind == Kind::call) REQUIRE(end.reply(got.frame.id, answer_bytes) == Status::ok);
                    if (got.frame.kind == Kind::reply || got.frame.kind == Kind::error) ++answered[side][got.frame.id];
                    posts += got.frame.kind == Kind::post;
                }
                end.flush();
            }
        }
        for (const auto& side : answered) {
            CHECK(side.size() == calls);
            CHECK(std::all_of(side.begin(), side.end(), [](const auto& each) { return each.second == 1; }));
        }
        CHECK(posts == 40);
        CHECK(pair.a.link->state() == Status::ok);
        CHECK(pair.b.link->state() == Status::ok);
        pair.a.flush();
        pair.b.flush();
        CHECK(pair.a.link->delivered());
        CHECK(pair.b.link->delivered());
        CHECK(pair.a.arena.usage().held_blocks == 0);
        CHECK(pair.b.arena.usage().held_blocks == 0);
    }
}

namespace {

const layout::Word64* watched_tail;
std::uint64_t tail_at_the_store;
void* watched_page;

void when_the_head_is_stored(int) {
    tail_at_the_store = watched_tail->load();
    ::mprotect(watched_page, layout::page_bytes, PROT_READ | PROT_WRITE);
}

}  // namespace

TEST_CASE("room is given back before new calls are shown, or their answers might find none", "[link]") {
    // The moment of the store to the head is caught by taking its page's right to be written away.
    Pair pair;
    REQUIRE(pair.b.post(1) == Status::ok);
    pair.b.flush();
    REQUIRE(pair.a.receive().status == Status::ok);
    REQUIRE(pair.a.post(2) == Status::ok);
    auto& head = pair.segment.positions(pair.b.slot, pair.a.slot).head;
    watched_tail = &pair.segment.positions(pair.a.slot, pair.b.slot).tail;
    watched_page =
        reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(&head) / layout::page_bytes * layout::page_bytes);
    REQUIRE((reinterpret_cast<std::uintptr_t>(watched_tail) ^ reinterpret_cast<std::uintptr_t>(&head)) >=
            layout::page_bytes);
    tail_at_the_store = ~std::uint64_t{0};
    struct sigaction catching{}, before{};
    catching.sa_handler = when_the_head_is_stored;
    ::sigaction(SIGSEGV, &catching, &before);
    ::mprotect(watched_page, layout::page_bytes, PROT_READ);
    pair.a.link->publish();
    ::mprotect(watched_page, layout::page_bytes, PROT_READ | PROT_WRITE);
    ::sigaction(SIGSEGV, &before, nullptr);
    CHECK(tail_at_the_store == 0);
    CHECK(*watched_tail > 0);
    CHECK(head > 0);
}

TEST_CASE("a frame too large for the ring goes through the arena and leaves nothing there", "[link]") {
    Pair pair;
    REQUIRE(pair.a.call(1, 1 << 20) == Status::ok);
    REQUIRE(pair.a.call(2, 8000) == Status::ok);
    CHECK(pair.a.arena.usage().held_blocks == 1);
    pair.a.flush();
    const auto large = pair.b.receive();
    REQUIRE(large.status == Status::ok);
    CHECK(same(large.frame.heap, std::string(1 << 20, 'b')));
    REQUIRE(pair.b.receive().frame.id == 2);
    REQUIRE(pair.b.reply(1, 1 << 20) == Status::ok);
    REQUIRE(pair.b.reply(2) == Status::ok);
    pair.b.flush();
    CHECK(same(pair.a.receive().frame.heap, std::string(1 << 20, 'b')));
    CHECK(pair.a.receive().frame.id == 2);
    pair.a.flush();
    pair.b.flush();
    CHECK(pair.a.arena.usage().held_blocks == 0);
    CHECK(pair.b.arena.usage().held_blocks == 0);
}

TEST_CASE("a receiver with too little room is told how much it takes, and loses nothing", "[link]") {
    Pair pair;
    REQUIRE(pair.a.post(1, 100'000) == Status::ok);
    REQUIRE(pair.a.post(2, 1000) == Status::ok);
    pair.a.flush();
    std::vector<std::uint64_t> room(20'000);
    const auto bytes = std::as_writable_bytes(std::span(room));
    const auto first = pair.b.link->receive(bytes.first(64));
    CHECK(first.status == Status::too_large);
    CHECK(first.bytes > 100'000);
    CHECK(pair.b.link->receive(bytes.first(first.bytes)).frame.id == 1);
    const auto second = pair.b.link->receive(bytes.first(64));
    CHECK(second.status == Status::too_large);
    CHECK(pair.b.link->receive(bytes.first(second.bytes)).frame.id == 2);
}

TEST_CASE("an answer that memory has no room for becomes the error that says so", "[link]") {
    Pair pair;
    REQUIRE(pair.a.call(1) == Status::ok);
    pair.a.flush();
    REQUIRE(pair.b.receive().status == Status::ok);
    for (;;) {
        if (pair.a.arena.allocate(layout::chunk_bytes).status != Status::ok) break;
    }
    REQUIRE(pair.b.reply(1, 100'000) == Status::no_memory);
    pair.b.flush();
    const auto error = pair.a.receive();
    REQUIRE(error.status == Status::ok);
    CHECK(error.frame.kind == Kind::error);
    CHECK(error.frame.status == Status::no_memory);
    CHECK(error.frame.id == 1);
    CHECK(pair.a.link->in_flight() == 0);
}

TEST_CASE("a large call that memory has no room for is refused when it is submitted, also while others wait",
          "[link]") {
    for (const bool opened : {true, false}) {
        Pair pair(opened);
        if (!opened) pair.a.open(pair.segment, pair.b);
        while (pair.b.arena.allocate(layout::chunk_bytes).status == Status::ok) continue;
        REQUIRE(pair.a.call(1) == Status::ok);
        CHECK(pair.a.call(2, 100'000) == Status::no_memory);
        CHECK(pair.a.link->in_flight() + pair.a.link->waiting() == 1);
        pair.a.flush();
        CHECK_FALSE(pair.a.link->ready());
    }
}

TEST_CASE("a large call that waits has its memory already, and keeps its place", "[link]") {
    Pair pair(false);
    pair.a.open(pair.segment, pair.b);
    REQUIRE(pair.a.call(1) == Status::ok);
    REQUIRE(pair.a.call(2, 100'000) == Status::ok);
    REQUIRE(pair.a.call(3) == Status::ok);
    CHECK(pair.a.arena.usage().held_blocks == 1);
    while (pair.b.arena.allocate(layout::chunk_bytes).status == Status::ok) continue;
    pair.b.open(pair.segment, pair.a);
    pair.a.flush();
    CHECK(pair.b.receive().frame.id == 1);
    CHECK(same(pair.b.receive().frame.heap, std::string(100'000, 'c')));
    CHECK(pair.b.receive().frame.id == 3);
    pair.b.flush();
    pair.a.flush();
    CHECK(pair.a.arena.usage().held_blocks == 0);
}

TEST_CASE("a link that ends while something waits gives its memory back", "[link]") {
    Pair pair(false);
    pair.a.open(pair.segment, pair.b);
    const auto made = pair.a.arena.allocate(5000);
    pair.a.values.clear();
    const std::uint64_t shape[] = {5000};
    pair.a.values.array(wire::DType::int8, wire::cell_leased, pair.a.values.payload(made.handle), shape);
    REQUIRE(pair.a.link->submit(
                {.kind = Kind::post, .cells = pair.a.values.cells(), .payloads = pair.a.values.payloads()}) ==
            Status::ok);
    REQUIRE(pair.a.post(2, 100'000) == Status::ok);
    CHECK(pair.a.arena.release(made.handle.block, made.handle.generation) == Status::ok);
    CHECK(pair.a.arena.usage().held_blocks == 2);
    pair.a.link.reset();
    CHECK(pair.a.arena.usage().held_blocks == 0);
}

TEST_CASE("what can't be counted in a frame is too large", "[link]") {
    Pair pair;
    const std::uint64_t bytes = std::uint64_t{5} << 30;  // never touched
    void* nothing = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(nothing != MAP_FAILED);
    for (const std::uint64_t size : {std::uint64_t{1} << 31, std::uint64_t{1} << 32, bytes}) {
        const Draft draft{.kind = Kind::call, .id = 1, .heap = {static_cast<const std::byte*>(nothing), size}};
        CHECK(pair.a.link->submit(draft) == Status::too_large);
    }
    REQUIRE(pair.a.call(2) == Status::ok);
    pair.a.flush();
    REQUIRE(pair.b.receive().status == Status::ok);
    REQUIRE(
        pair.b.link->answer({.kind = Kind::reply, .id = 2, .heap = {static_cast<const std::byte*>(nothing), bytes}}) ==
        Status::too_large);
    pair.b.flush();
    CHECK(pair.a.receive().frame.status == Status::too_large);
    ::munmap(nothing, bytes);
}

TEST_CASE("an array travels without its sender's lease, and without a copy", "[link]") {
    Pair pair;
    const auto made = pair.a.arena.allocate(100'000);
    REQUIRE(made.status == Status::ok);
    std::memset(pair.a.arena.at(made.handle), 42, 100'000);
    const std::uint64_t shape[] = {100'000};
    pair.a.values.clear();
    pair.a.values.array(wire::DType::uint8, wire::cell_leased, pair.a.values.payload(made.handle), shape);
    const Draft draft{
        .kind = Kind::call, .id = 1, .cells = pair.a.values.cells(), .payloads = pair.a.values.payloads()};
    REQUIRE(pair.a.link->submit(draft) == Status::ok);
    CHECK(pair.a.arena.release(made.handle.block, made.handle.generation) == Status::ok);
    auto& leases = pair.segment.blocks()[made.handle.block].leases;
    CHECK(leases == std::uint64_t{1} << 3);
    pair.a.flush();
    const auto got = pair.b.receive();
    REQUIRE(got.status == Status::ok);
    REQUIRE(got.frame.payloads.size() == 1);
    CHECK(leases == (std::uint64_t{1} << 3 | std::uint64_t{1} << 60));
    pair.b.link->publish();
    pair.a.flush();
    CHECK(leases == std::uint64_t{1} << 60);
    CHECK(pair.a.arena.usage().held_blocks == 0);
    const auto* bytes = reinterpret_cast<const unsigned char*>(pair.b.arena.at(got.frame.payloads[0]));
    CHECK(std::all_of(bytes, bytes + 100'000, [](unsigned char byte) { return byte == 42; }));
    CHECK(pair.b.arena.release(made.handle.block, made.handle.generation) == Status::ok);
    CHECK(leases == 0);
}

TEST_CASE("an array that its sender does not use is stale, and nothing is sent", "[link]") {
    Pair pair;
    const auto good = pair.a.arena.allocate(100), bad = pair.a.arena.allocate(100);
    REQUIRE(pair.a.arena.release(bad.handle.block, bad.handle.generation) == Status::ok);
    const Handle payloads[] = {good.handle, bad.handle};
    CHECK(pair.a.link->submit({.kind = Kind::post, .payloads = payloads}) == Status::stale);
    CHECK(pair.a.arena.release(good.handle.block, good.handle.generation) == Status::ok);
    CHECK(pair.a.arena.usage().held_blocks == 0);
    CHECK(pair.a.link->delivered());
}

TEST_CASE("too much that waits is full, and visible to the caller", "[link]") {
    Pair pair(false);
    pair.a.open(pair.segment, pair.b);
    std::uint64_t sent = 0;
    Status status = Status::ok;
    const Draft draft = pair.a.draft(Kind::post, 1, 8000);
    while (sent < 100'000 && (status = pair.a.link->submit(draft)) == Status::ok) ++sent;
    CHECK(status == Status::full);
    CHECK(sent == Link::backlog_bytes / wire::size(draft));
    CHECK(pair.segment.peer(pair.a.slot).counters.full == 1);
}

TEST_CASE("whoever waits for room is woken once there is some, and once only", "[link]") {
    Pair pair;
    while (pair.a.link->waiting() < 2) REQUIRE(pair.a.post(1, 4000) == Status::ok);
    pair.a.flush();
    pair.a.rung();
    auto& asleep = pair.segment.peer(pair.a.slot).asleep;
    pair.a.link->starve();
    doorbell::arm(asleep);
    CHECK_FALSE(pair.a.link->ready());
    while (pair.b.receive().status == Status::ok) continue;
    pair.b.link->publish();
    CHECK(pair.a.rung());
    pair.b.link->publish();
    CHECK_FALSE(pair.a.rung());
    CHECK(pair.a.link->ready());
    pair.a.flush();
    CHECK(pair.a.link->waiting() == 0);
    doorbell::arm(asleep);
    while (pair.b.receive().status == Status::ok) continue;
    pair.b.link->publish();
    CHECK_FALSE(pair.a.rung());
}

TEST_CASE("two threads converse over one mapping, with arrays, until both have everything", "[link][threads]") {
    Pair pair;
    constexpr std::uint64_t calls = 3000;
    std::atomic<int> wrong{0}, late{0};
    const auto converse = [&](End& end, Segment& segment) {
        std::uint64_t sent = 0, answered = 0, served = 0;
        const auto deadline = Clock::now() + 30s;
        while ((answered < calls || served < calls) && Clock::now() < deadline) {
            while (sent < calls && sent < answered + 200) {
                const std::uint64_t id = ++sent;
                if (id % 5 != 0) {
                    wrong += end.call(id, id % 9 == 0 ? 20'000 : id % 100) != Status::ok;
                    continue;
                }
                const auto made = end.arena.allocate(1000 + id);
                if (made.status != Status::ok) {
                    --sent;
                    break;
                }
                std::memset(end.arena.at(made.handle), End::letter(id), made.handle.bytes);
                end.values.clear();
                const std::uint64_t shape[] = {made.handle.bytes};
                end.values.array(wire::DType::uint8, wire::cell_leased, end.values.payload(made.handle), shape);
                wrong += end.link->submit({.kind = Kind::call,
                                           .id = id,
                                           .cells = end.values.cells(),
                                           .payloads = end.values.payloads()}) != Status::ok;
                wrong += end.arena.release(made.handle.block, made.handle.generation) != Status::ok;
            }
            int frames = 0;
            for (auto got = end.receive(); got.status == Status::ok; got = end.receive(), ++frames) {
                for (const Handle& array : got.frame.payloads) {
                    const auto* bytes = reinterpret_cast<const char*>(end.arena.at(array));
                    for (std::uint64_t i = 0; i < array.bytes; i += 97) wrong += bytes[i] != End::letter(got.frame.id);
                }
                if (got.frame.kind == Kind::call) {
                    ++served;
                    wrong += end.link->answer({.kind = Kind::reply,
                                               .id = got.frame.id,
                                               .cells = got.frame.cells,
                                               .heap = got.frame.heap,
                                               .payloads = got.frame.payloads}) != Status::ok;
                } else {
                    ++answered;
                }
                for (const Handle& array : got.frame.payloads)
                    wrong += end.arena.release(array.block, array.generation) != Status::ok;
            }
            end.flush();
            if (frames > 0 || (answered == calls && served == calls)) continue;
            auto& asleep = segment.peer(end.slot).asleep;
            end.link->starve();
            doorbell::arm(asleep);
            if (!end.link->ready()) late += !doorbell::sleep(end.bell.get(), Clock::now() + 5s);
            if (doorbell::disarm(asleep)) doorbell::silence(end.bell.get());
        }
        wrong += answered != calls || served != calls;
    };
    std::thread other([&] { converse(pair.b, pair.segment); });
    converse(pair.a, pair.segment);
    other.join();
    CHECK(wrong == 0);
    CHECK(late == 0);
    for (End* end : {&pair.a, &pair.b}) {
        (void)end->receive();
        end->flush();
    }
    CHECK(pair.a.link->delivered());
    CHECK(pair.b.link->delivered());
    CHECK(pair.a.arena.usage().held_blocks == 0);
    CHECK(pair.b.arena.usage().held_blocks == 0);
}

TEST_CASE("under load nobody is rung who is awake", "[link]") {
    Pair pair;
    for (std::uint64_t id = 1; id <= 1000; ++id) {
        REQUIRE(pair.a.call(id) == Status::ok);
        pair.a.link->publish();
        REQUIRE(pair.b.receive().status == Status::ok);
        REQUIRE(pair.b.reply(id) == Status::ok);
        pair.b.link->publish();
        REQUIRE(pair.a.receive().status == Status::ok);
    }
    CHECK(pair.segment.peer(pair.a.slot).counters.wakes == 0);
    CHECK(pair.segment.peer(pair.b.slot).counters.wakes == 0);
}

TEST_CASE("a hostile peer's record ends its link and harms nobody", "[link]") {
    Pair owner_of_nothing;
    const std::byte garbage[64] = {std::byte{1}, std::byte{2}, std::byte{3}};
    const Handle no_block{0, 0, 0xffffffff, 0};
    const auto forged_reply = [] {
        const Draft reply{.kind = Kind::reply, .id = 1};
        std::vector<std::uint64_t> bytes(wire::size(reply) / 8 + 1);
        wire::write(reply, reinterpret_cast<std::byte*>(bytes.data()));
        return bytes;
    }();
    const auto payload_of_no_block = [&] {
        const Draft post{.kind = Kind::post, .payloads = {&no_block, 1}};
        std::vector<std::uint64_t> bytes(wire::size(post) / 8 + 1);
        wire::write(post, reinterpret_cast<std::byte*>(bytes.data()));
        return bytes;
    }();
    const std::pair<const char*, std::function<void(Pair&)>> attacks[] = {
        {"garbage for a frame", [&](Pair& pair) { forge(pair, layout::RecordKind::frame, garbage); }},
        {"an empty frame", [&](Pair& pair) { forge(pair, layout::RecordKind::frame, {}); }},
        {"a kind that does not exist", [&](Pair& pair) { forge(pair, layout::RecordKind{9}, garbage); }},
        {"an indirect record of a wrong size", [&](Pair& pair) { forge(pair, layout::RecordKind::indirect, garbage); }},
        {"a block outside the arena", [&](Pair& pair) { forge(pair, {0, 100, 0x7fffffff, 0}); }},
        {"an empty piece of a block outside the arena", [&](Pair& pair) { forge(pair, no_block); }},
        {"a block nobody has", [&](Pair& pair) { forge(pair, {0, 100, 0, 0}); }},
        {"more bytes than there is memory", [&](Pair& pair) { forge(pair, {0, std::uint64_t{1} << 60, 0, 0}); }},
        {"as many bytes as there is memory, in a block that has fewer",
         [&](Pair& pair) { forge(pair, {0, arena_bytes, 0, 0}); }},
        {"a reply that nobody asked for",
         [&](Pair& pair) { forge(pair, layout::RecordKind::frame, std::as_bytes(std::span(forged_reply))); }},
        {"an array in no block",
         [&](Pair& pair) { forge(pair, layout::RecordKind::frame, std::as_bytes(std::span(payload_of_no_block))); }},
        {"a tail far ahead", [&](Pair& pair) { pair.segment.positions(3, 60).tail = std::uint64_t{1} << 40; }},
        {"a tail that goes back", [&](Pair& pair) { pair.segment.positions(3, 60).tail = ~std::uint64_t{7}; }},
    };
    for (const auto& [what, attack] : attacks) {
        INFO(what);
        Pair pair;
        attack(pair);
        const auto got = pair.b.link->receive(std::as_writable_bytes(std::span(pair.b.room)));
        CHECK(got.status == Status::corrupt);
        CHECK(pair.b.link->state() == Status::corrupt);
        CHECK(pair.b.link->receive(std::as_writable_bytes(std::span(pair.b.room))).status == Status::corrupt);
        CHECK(pair.b.call(1) == Status::corrupt);
        CHECK(pair.b.reply(1) == Status::corrupt);
        CHECK(pair.b.arena.usage().held_blocks == 0);
        pair.b.flush();
        pair.b.link.reset();
    }
}

TEST_CASE("a head that is nowhere a head can be ends the link, also while something waits", "[link]") {
    Pair pair;
    while (pair.a.link->waiting() < 2) REQUIRE(pair.a.post(1, 4000) == Status::ok);
    pair.a.flush();
    pair.segment.positions(3, 60).head = std::uint64_t{1} << 40;
    CHECK(pair.a.link->ready());
    pair.a.flush();
    CHECK(pair.a.link->state() == Status::corrupt);
}

TEST_CASE("a peer that has more calls in flight than it may is cut off", "[link]") {
    Pair pair;
    Status status = Status::ok;
    for (std::uint64_t id = 1; id < 2000 && status == Status::ok; ++id) status = pair.b.reply(id);
    CHECK(status == Status::corrupt);
    CHECK(pair.b.link->state() == Status::corrupt);
}

TEST_CASE("latencies fall into buckets that grow", "[link]") {
    for (std::uint32_t bucket = 1; bucket < 63; ++bucket) {
        CHECK(latency_of(bucket) < latency_of(bucket + 1));
        CHECK(latency_bucket(latency_of(bucket)) == bucket);
        CHECK(latency_bucket(latency_of(bucket + 1) - 1) == bucket);
    }
    CHECK(latency_bucket(0) == 0);
    CHECK(latency_bucket(~std::uint64_t{0}) == 63);
}

}  // namespace isthmus
