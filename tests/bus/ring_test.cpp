#include "bus/ring.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"

namespace isthmus {
namespace {

using layout::RecordKind;

constexpr std::uint64_t capacity = 1024;
constexpr std::uint64_t near_2_32 = (std::uint64_t{1} << 32) - 64;
constexpr std::uint64_t near_2_64 = ~std::uint64_t{0} - 63;

/// A ring in given memory, both of whose positions begin where the test says.
struct Memory {
    explicit Memory(std::uint64_t start = 0) : start(start) {
        positions.tail = start;
        positions.head = start;
    }
    ring::Producer producer() { return {positions, data.data(), capacity, start}; }
    ring::Consumer consumer() { return {positions, data.data(), capacity, start}; }
    void header(std::uint64_t position, std::uint32_t bytes, std::uint32_t kind) {
        const layout::RecordHeader header{bytes, kind};
        std::memcpy(&data[position % capacity], &header, sizeof header);
    }

    std::uint64_t start;
    layout::RingPositions positions{};
    alignas(8) std::array<std::byte, capacity> data{};
};

Status put(ring::Producer& producer, std::string_view text, std::uint64_t reserve = 0) {
    const auto claim = producer.claim(text.size(), reserve);
    if (claim.status != Status::ok) return claim.status;
    std::memcpy(claim.bytes, text.data(), text.size());
    producer.commit(RecordKind::frame, text.size());
    return Status::ok;
}

std::string text_of(const ring::Consumer::Record& record) {
    return {reinterpret_cast<const char*>(record.bytes.data()), record.bytes.size()};
}

/// The next record's text, released; "(empty)" or "(corrupt)" when there is none.
std::string get(ring::Consumer& consumer) {
    const auto record = consumer.peek();
    if (record.status == Status::empty) return "(empty)";
    if (record.status == Status::corrupt) return "(corrupt)";
    std::string text = text_of(record);
    consumer.release();
    return text;
}

}  // namespace

TEST_CASE("a record is seen once it is published and not before", "[ring]") {
    Memory memory;
    auto producer = memory.producer();
    auto consumer = memory.consumer();
    CHECK(get(consumer) == "(empty)");

    auto claim = producer.claim(5);
    REQUIRE(claim.status == Status::ok);
    std::memcpy(claim.bytes, "hello", 5);
    CHECK(get(consumer) == "(empty)");
    producer.commit(RecordKind::frame, 5);
    CHECK(get(consumer) == "(empty)");
    CHECK_FALSE(consumer.ready());
    CHECK(producer.publish());
    CHECK(consumer.ready());
    CHECK(get(consumer) == "hello");
    CHECK(get(consumer) == "(empty)");
    CHECK_FALSE(producer.publish());
}

TEST_CASE("a whole batch costs one release store each way", "[ring]") {
    Memory memory;
    auto producer = memory.producer();
    auto consumer = memory.consumer();
    for (int i = 0; i < 10; ++i) {
        REQUIRE(put(producer, "x") == Status::ok);
        CHECK(memory.positions.tail == 0);
    }
    producer.publish();
    CHECK(memory.positions.tail == 160);
    for (int i = 0; i < 10; ++i) {
        CHECK(get(consumer) == "x");
        CHECK(memory.positions.head == 0);
    }
    consumer.retire();
    CHECK(memory.positions.head == 160);
}

TEST_CASE("records are 8-byte aligned, contiguous and of any length from 0 on", "[ring]") {
    Memory memory;
    auto producer = memory.producer();
    auto consumer = memory.consumer();
    for (std::size_t bytes = 0; bytes < 300; ++bytes) {
        const std::string text(bytes, static_cast<char>('a' + bytes % 26));
        const auto claim = producer.claim(bytes);
        REQUIRE(claim.status == Status::ok);
        REQUIRE(reinterpret_cast<std::uintptr_t>(claim.bytes) % 8 == 0);
        REQUIRE(claim.bytes + bytes <= memory.data.data() + capacity);
        std::memcpy(claim.bytes, text.data(), bytes);
        producer.commit(RecordKind::frame, bytes);
        producer.publish();
        REQUIRE(get(consumer) == text);
        consumer.retire();
    }
}

TEST_CASE("an aborted claim leaves no trace", "[ring]") {
    Memory memory;
    auto producer = memory.producer();
    auto consumer = memory.consumer();
    REQUIRE(put(producer, "before") == Status::ok);
    REQUIRE(producer.claim(100).status == Status::ok);
    producer.abort();
    REQUIRE(put(producer, "after") == Status::ok);
    producer.publish();
    CHECK(get(consumer) == "before");
    CHECK(get(consumer) == "after");
    CHECK(get(consumer) == "(empty)");
}

TEST_CASE("an aborted claim that would have wrapped leaves no padding", "[ring]") {
    Memory memory(capacity - 32);
    auto producer = memory.producer();
    REQUIRE(producer.claim(100).status == Status::ok);
    producer.abort();
    CHECK(producer.written() == capacity - 32);
    REQUIRE(put(producer, "fits") == Status::ok);
    CHECK(producer.written() == capacity - 16);
}

TEST_CASE("a record may turn out smaller than its claim", "[ring]") {
    Memory memory;
    auto producer = memory.producer();
    auto consumer = memory.consumer();
    const auto claim = producer.claim(500);
    REQUIRE(claim.status == Status::ok);
    std::memcpy(claim.bytes, "little", 6);
    producer.commit(RecordKind::indirect, 6);
    producer.publish();
    const auto record = consumer.peek();
    CHECK(record.kind == RecordKind::indirect);
    CHECK(text_of(record) == "little");
    CHECK(producer.written() == 16);
}

TEST_CASE("a full ring says so, and has room again once the consumer retires", "[ring]") {
    Memory memory;
    auto producer = memory.producer();
    auto consumer = memory.consumer();
    const std::string text(56, 'x');
    for (int i = 0; i < 16; ++i) REQUIRE(put(producer, text) == Status::ok);
    CHECK(put(producer, "") == Status::full);
    producer.publish();
    CHECK(get(consumer) == text);
    CHECK(put(producer, text) == Status::full);
    consumer.retire();
    CHECK(put(producer, text) == Status::ok);
    CHECK(put(producer, text) == Status::full);
}

TEST_CASE("a reserve stays free behind a record", "[ring]") {
    Memory memory;
    auto producer = memory.producer();
    const std::string text(56, 'x');
    for (int i = 0; i < 8; ++i) REQUIRE(put(producer, text, capacity / 2) == Status::ok);
    CHECK(put(producer, text, capacity / 2) == Status::full);
    for (int i = 0; i < 8; ++i) REQUIRE(put(producer, text) == Status::ok);
    CHECK(put(producer, text) == Status::full);
}

TEST_CASE("a record never crosses the ring's end, wherever the positions are", "[ring]") {
    for (const std::uint64_t base : {std::uint64_t{0}, near_2_32 & ~(capacity - 1), near_2_64 & ~(capacity - 1)}) {
        for (std::uint64_t at = 0; at < capacity; at += 8) {
            Memory memory(base + at);
            auto producer = memory.producer();
            auto consumer = memory.consumer();
            const std::string text(200, static_cast<char>('a' + at % 26));
            REQUIRE(put(producer, "first") == Status::ok);
            REQUIRE(put(producer, text) == Status::ok);
            REQUIRE(put(producer, text) == Status::ok);
            producer.publish();
            REQUIRE(get(consumer) == "first");
            REQUIRE(get(consumer) == text);
            REQUIRE(get(consumer) == text);
            REQUIRE(get(consumer) == "(empty)");
            consumer.retire();
            REQUIRE(memory.positions.head == memory.positions.tail);
        }
    }
}

TEST_CASE("thousands of records pass 2^32 and 2^64 unharmed", "[ring]") {
    for (const std::uint64_t start : {std::uint64_t{0}, near_2_32, near_2_64}) {
        Memory memory(start);
        auto producer = memory.producer();
        auto consumer = memory.consumer();
        std::uint32_t sent = 0, received = 0;
        while (received < 5000) {
            while (sent < 5000 && put(producer, std::to_string(sent) + std::string(sent % 97, '.')) == Status::ok)
                ++sent;
            producer.publish();
            for (int i = 0; i < 7 && received < sent; ++i, ++received) {
                REQUIRE(get(consumer) == std::to_string(received) + std::string(received % 97, '.'));
            }
            consumer.retire();
        }
        CHECK(get(consumer) == "(empty)");
    }
}

TEST_CASE("a tail that is nowhere a tail can be is corrupt and never clamped", "[ring]") {
    for (const std::uint64_t start : {std::uint64_t{4096}, near_2_32, near_2_64}) {
        for (const std::uint64_t lie :
             {start + capacity + 8, start - 8, start + 1, start + 4, start + (std::uint64_t{1} << 40)}) {
            Memory memory(start);
            auto consumer = memory.consumer();
            memory.positions.tail = lie;
            CHECK(get(consumer) == "(corrupt)");
            CHECK(consumer.read() == start);
            CHECK(get(consumer) == "(corrupt)");
        }
    }
}

TEST_CASE("a tail beyond the room that was given back is corrupt, also when the records between were read", "[ring]") {
    Memory memory;
    auto producer = memory.producer();
    auto consumer = memory.consumer();
    REQUIRE(put(producer, std::string(56, 'x')) == Status::ok);
    producer.publish();
    REQUIRE(get(consumer) == std::string(56, 'x'));
    memory.positions.tail = capacity + 64;
    memory.header(64, 0, 1);
    CHECK(get(consumer) == "(corrupt)");
}

TEST_CASE("a tail that goes back is corrupt", "[ring]") {
    Memory memory;
    auto producer = memory.producer();
    auto consumer = memory.consumer();
    REQUIRE(put(producer, "one") == Status::ok);
    producer.publish();
    REQUIRE(get(consumer) == "one");
    memory.positions.tail = 0;
    CHECK(get(consumer) == "(corrupt)");
}

TEST_CASE("a head that is nowhere a head can be is corrupt and never clamped", "[ring]") {
    for (const std::uint64_t start : {std::uint64_t{4096}, near_2_32, near_2_64}) {
        for (const std::int64_t lie : {-8, 24, 4, 1 << 20}) {
            Memory memory(start);
            auto producer = memory.producer();
            REQUIRE(put(producer, "x") == Status::ok);
            producer.publish();
            REQUIRE(put(producer, "not published") == Status::ok);
            memory.positions.head = start + static_cast<std::uint64_t>(lie);
            CHECK_FALSE(producer.look());
            CHECK(producer.consumed() == start);
            CHECK(producer.claim(capacity).status == Status::corrupt);
        }
    }
}

TEST_CASE("a head that goes back is corrupt", "[ring]") {
    Memory memory;
    auto producer = memory.producer();
    REQUIRE(put(producer, "x") == Status::ok);
    producer.publish();
    memory.positions.head = 16;
    REQUIRE(producer.look());
    memory.positions.head = 8;
    CHECK_FALSE(producer.look());
}

TEST_CASE("a record that claims to reach beyond the tail, or beyond the ring, is corrupt", "[ring]") {
    for (const std::uint64_t start : {std::uint64_t{0}, capacity - 64, near_2_64}) {
        for (const std::uint32_t bytes : {57u, 1024u, 0x7fffffffu, 0xfffffff0u, 0xffffffffu}) {
            for (const std::uint32_t kind : {1u, 2u, 3u}) {
                Memory memory(start);
                auto consumer = memory.consumer();
                memory.header(start, bytes, kind);
                memory.positions.tail = start + 64;
                CHECK(get(consumer) == "(corrupt)");
            }
        }
    }
    Memory memory(capacity - 64);
    auto consumer = memory.consumer();
    memory.header(capacity - 64, 100, 1);
    memory.positions.tail = capacity + 64;
    CHECK(get(consumer) == "(corrupt)");
}

TEST_CASE("a record of no known kind is corrupt", "[ring]") {
    for (const std::uint32_t kind : {0u, 4u, 0x01000000u, 0xffffffffu}) {
        Memory memory;
        auto consumer = memory.consumer();
        memory.header(0, 8, kind);
        memory.positions.tail = 16;
        CHECK(get(consumer) == "(corrupt)");
    }
}

TEST_CASE("a producer that dies at any step leaves whole records or none", "[ring]") {
    // Steps of a life: two records published, a third claimed, written in part, committed, a padding, published.
    for (int steps = 0; steps <= 6; ++steps) {
        Memory memory(capacity - 96);
        {
            auto producer = memory.producer();
            const auto live = [&](int step) { return steps >= step; };
            if (live(1)) REQUIRE(put(producer, "one") == Status::ok);
            if (live(2)) producer.publish();
            ring::Producer::Claim claim{};
            if (live(3)) claim = producer.claim(200);  // crosses the end: padding comes first
            if (live(4)) std::memset(claim.bytes, '!', 100);
            if (live(5)) producer.commit(RecordKind::frame, 200);
            if (live(6)) producer.publish();
        }
        auto consumer = memory.consumer();
        if (steps >= 2) CHECK(get(consumer) == "one");
        if (steps >= 6) CHECK(get(consumer).size() == 200);
        CHECK(get(consumer) == "(empty)");
    }
}

TEST_CASE("what a dead producer's successor finds is a ring like any other", "[ring]") {
    Memory memory(near_2_32);
    {
        auto producer = memory.producer();
        REQUIRE(put(producer, "left behind") == Status::ok);
        producer.publish();
        const auto claim = producer.claim(300);
        std::memset(claim.bytes, 0xff, 300);
    }
    memory.start = memory.positions.tail;
    memory.positions.head = memory.start;
    auto producer = memory.producer();
    auto consumer = memory.consumer();
    REQUIRE(put(producer, "new life") == Status::ok);
    producer.publish();
    CHECK(get(consumer) == "new life");
}

TEST_CASE("two threads pass records of all lengths, in order and untorn", "[ring][threads]") {
    // As many as a busy machine passes in time.
    std::atomic<std::uint32_t> records{50'000};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(1500);
    Memory memory(near_2_32);
    const auto length = [](std::uint32_t i) { return 4 + (i * 2654435761u >> 20) % 180; };
    std::thread writer([&] {
        auto producer = memory.producer();
        for (std::uint32_t i = 0; i < records;) {
            const auto claim = producer.claim(length(i));
            if (claim.status == Status::full) {
                producer.publish();
                std::this_thread::yield();
                continue;
            }
            std::memset(claim.bytes, static_cast<int>(i & 0xff), length(i));
            std::memcpy(claim.bytes, &i, sizeof i);
            producer.commit(RecordKind::frame, length(i));
            ++i;
            if (i % 64 == 0 && std::chrono::steady_clock::now() > deadline) records = i;
            if (i % 5 == 0 || i == records) producer.publish();
        }
    });
    auto consumer = memory.consumer();
    std::uint32_t wrong = 0;
    for (std::uint32_t i = 0; i < records;) {
        const auto record = consumer.peek();
        if (record.status == Status::empty) {
            consumer.retire();
            std::this_thread::yield();
            continue;
        }
        std::uint32_t number = ~i;
        if (record.status == Status::ok && record.bytes.size() == length(i))
            std::memcpy(&number, record.bytes.data(), sizeof number);
        wrong += number != i;
        for (std::size_t b = 4; b < record.bytes.size(); ++b)
            wrong += record.bytes[b] != static_cast<std::byte>(i & 0xff);
        if (record.status != Status::ok) break;
        consumer.release();
        if (++i % 3 == 0) consumer.retire();
    }
    writer.join();
    CHECK(wrong == 0);
    CHECK(get(consumer) == "(empty)");
}

}  // namespace isthmus
