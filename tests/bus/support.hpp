// What the tests of several rooms need: an arena in given memory, a value in one line, a wait with a deadline.
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "bus/bus.hpp"

namespace isthmus::test {

using namespace std::chrono_literals;
using doorbell::Clock;

/// Who sends messages whose bytes follow from their numbers, and has room for those that it receives.
struct Correspondent {
    static char letter(std::uint64_t id) { return static_cast<char>('a' + id % 26); }

    /// A text of so many bytes, all alike; none: a number.
    wire::Draft draft(wire::Kind kind, std::uint64_t id, std::size_t bytes) {
        values.clear();
        if (bytes) {
            values.text(std::string(bytes, letter(id)), true);
        } else {
            values.real(static_cast<double>(id));
        }
        return {.kind = kind,
                .target = 0,
                .id = id,
                .cells = values.cells(),
                .heap = values.heap(),
                .payloads = values.payloads()};
    }
    template <typename Source>
    auto receive_from(Source& source) {
        for (;;) {
            auto received = source.receive(std::as_writable_bytes(std::span(room)));
            if (received.status != Status::too_large) return received;
            room.resize(received.bytes / 8 + 1);
        }
    }

    std::vector<std::uint64_t> room = std::vector<std::uint64_t>(1 << 14);
    wire::Values values;
};

/// Pages that a test can count and refuse.
struct FakePages : ArenaPages {
    Status reserve(std::uint64_t, std::uint64_t chunks, std::uint32_t) override {
        if (refuse) return Status::no_memory;
        reserved += chunks;
        return Status::ok;
    }
    void punch(std::uint64_t, std::uint64_t chunks) override {
        if (on_punch) on_punch();
        punched += chunks;
    }

    std::atomic<std::uint64_t> reserved{0}, punched{0};
    std::atomic<bool> refuse{false};
    std::function<void()> on_punch;
};

/// An arena without a segment.
struct ArenaBox {
    explicit ArenaBox(std::uint64_t count)
        : chunks(new layout::Chunk[count]()),
          blocks(new layout::Block[count * layout::blocks_per_chunk]()),
          bytes(static_cast<std::byte*>(
              ::operator new(count* layout::chunk_bytes, std::align_val_t{layout::page_bytes}))),
          memory{chunks.get(), blocks.get(), bytes.get(), count * layout::chunk_bytes} {
        std::memset(bytes.get(), 0, memory.bytes);
    }

    std::unique_ptr<Arena> arena(std::uint32_t slot, std::uint32_t generation = 1) {
        return std::make_unique<Arena>(memory, pages, slot, generation, counters[slot]);
    }
    std::uint64_t owned_chunks() const {
        std::uint64_t owned = 0;
        for (std::uint64_t i = 0; i < memory.chunk_count(); ++i) owned += chunks[i].owner != 0;
        return owned;
    }
    std::uint64_t leased_blocks() const {
        std::uint64_t leased = 0;
        for (std::uint64_t i = 0; i < memory.chunk_count() * layout::blocks_per_chunk; ++i)
            leased += blocks[i].leases != 0;
        return leased;
    }

    struct Free {
        void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{layout::page_bytes}); }
    };
    std::unique_ptr<layout::Chunk[]> chunks;
    std::unique_ptr<layout::Block[]> blocks;
    std::unique_ptr<std::byte[], Free> bytes;
    ArenaMemory memory;
    FakePages pages;
    layout::Counters counters[layout::max_peers]{};
};

/// Bytes of a segment that have pages.
inline std::uint64_t resident(const Segment& segment) {
    struct stat file{};
    ::fstat(segment.fd(), &file);
    return static_cast<std::uint64_t>(file.st_blocks) * 512;
}

/// Whether `done` becomes true in time.
template <class Done>
bool soon(Done&& done, std::chrono::milliseconds within = 5s) {
    const auto deadline = Clock::now() + within;
    while (!done()) {
        if (Clock::now() > deadline) return false;
        std::this_thread::sleep_for(200us);
    }
    return true;
}

/// The middle one of some durations: a busy machine makes one late, not half of them.
inline Clock::duration median(std::vector<Clock::duration> times) {
    std::sort(times.begin(), times.end());
    return times.at(times.size() / 2);
}

inline std::string_view view(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace isthmus::test
