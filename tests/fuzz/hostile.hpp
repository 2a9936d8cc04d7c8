// What a hostile peer may do, as a function of some bytes. libFuzzer picks them in tests/fuzz, a seeded generator in
// tests/bus; both end the process when the core believes what it should not.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "bus/link.hpp"

namespace isthmus::fuzz {

inline void must(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "fuzz: %s\n", what);
    std::abort();
}

__extension__ using Wide = __int128;  // sums of hostile numbers

/// A frame that was taken is one that its readers can walk without a look at a bound, and write again.
inline void check_frame(const wire::Draft& frame) {
    std::vector<std::uint64_t> open;
    for (std::size_t i = 0; i < frame.cells.size(); ++i) {
        const wire::Cell& cell = frame.cells[i];
        if (!open.empty()) --open.back();
        std::uint64_t inside = 0;
        switch (cell.tag) {
            case wire::Tag::text:
            case wire::Tag::bigint: must(cell.bits + cell.count <= frame.heap.size(), "a text outside the heap"); break;
            case wire::Tag::list:
            case wire::Tag::tuple:
            case wire::Tag::set: inside = cell.count; break;
            case wire::Tag::object:
            case wire::Tag::map: inside = 2 * std::uint64_t{cell.count}; break;
            case wire::Tag::bytes:
            case wire::Tag::array: {
                const auto shape = wire::array_shape(frame.cells.subspan(i));
                must(i + shape.cells < frame.cells.size(), "an array without its shape");
                bool overflow = false;
                const auto bytes = wire::array_bytes(shape.item_bytes, shape.extents, overflow);
                must(!overflow, "an array whose size overflows");
                if (shape.type != nullptr)
                    must(shape.type->bits + shape.type->count <= frame.heap.size(), "a type outside the heap");
                if ((cell.flags & wire::cell_leased) == 0) {
                    must(cell.bits + bytes <= frame.heap.size(), "an array outside the heap");
                } else {
                    must(cell.bits < frame.payloads.size(), "an array without its payload");
                    const auto room = static_cast<Wide>(frame.payloads[cell.bits].bytes);
                    Wide first = static_cast<Wide>(shape.start), last = first;
                    for (std::size_t d = 0; d < shape.strides.size(); ++d) {
                        const auto reach = static_cast<Wide>(shape.extents[d].bits - 1) *
                                           static_cast<std::int64_t>(shape.strides[d].bits);
                        (reach < 0 ? first : last) += reach;
                    }
                    if (shape.strides.empty()) last = bytes - static_cast<Wide>(shape.item_bytes);
                    must(bytes == 0 || (first >= 0 && last + static_cast<Wide>(shape.item_bytes) <= room),
                         "an array beyond its payload");
                }
                i += shape.cells;
                break;
            }
            case wire::Tag::slice: inside = 3; break;
            case wire::Tag::table: inside = std::uint64_t{cell.count} + 1; break;
            case wire::Tag::reference:
                must((frame.flags & wire::frame_references) != 0, "a reference in a frame that says it has none");
                must(wire::owner_of(cell) < layout::max_peers, "a reference to a peer that can't be");
                break;
            default: must(cell.tag <= wire::Tag::date, "a tag that does not exist");
        }
        if (inside > 0) open.push_back(inside);
        must(open.size() <= wire::max_depth, "nesting beyond the limit");
        while (!open.empty() && open.back() == 0) open.pop_back();
    }
    must(open.empty(), "a container with too few cells");

    std::vector<std::uint64_t> again((wire::size(frame) + 7) / 8);
    wire::write(frame, reinterpret_cast<std::byte*>(again.data()));
    wire::Draft copy;
    must(wire::read(std::as_bytes(std::span(again)).first(wire::size(frame)), copy) == Status::ok,
         "a frame that can't be written again");
    must(copy.cells.size() == frame.cells.size() && copy.heap.size() == frame.heap.size() &&
             copy.payloads.size() == frame.payloads.size() && copy.name == frame.name && copy.id == frame.id,
         "a frame that changes when it is written again");
}

inline void play_frame(std::span<const std::byte> bytes) {
    std::vector<std::uint64_t> room(bytes.size() / 8 + 1);
    if (!bytes.empty()) std::memcpy(room.data(), bytes.data(), bytes.size());
    wire::Draft frame;
    if (wire::read(std::as_bytes(std::span(room)).first(bytes.size()), frame) == Status::ok) check_frame(frame);
}

/// A bus of two: one that is honest and looks at everything, one that writes what it likes wherever it may.
class Victim {
public:
    static constexpr std::uint64_t ring_bytes = 64 << 10;
    static constexpr std::uint32_t hostile = 1, honest = 2;
    static constexpr std::size_t chunk_words = 4 * 2, block_words = 16 * 2;

    Victim() {
        for (const std::uint32_t slot : {hostile, honest})
            segment_.peer(slot).life = layout::life(1, layout::Phase::live);
        (void)pages_.reserve(0, 4, 4 * layout::blocks_per_chunk);
    }

    /// The bytes: tail and head, the attachment, the table of chunks, some of the table of blocks, and the ring from its start.
    void play(std::span<const std::byte> bytes) {
        auto [status, link] = Link::open(segment_, arena_, {honest, 1, hostile, 1}, Fd(doorbell::open()));
        must(status == Status::ok, "no link");
        const auto mine = arena_.allocate(1000);
        const std::uint64_t shape[] = {1000};
        wire::Values values;
        values.array(wire::DType::uint8, wire::cell_leased, values.payload(mine.handle), shape);
        const wire::Draft call{
            .kind = wire::Kind::call, .id = 1, .cells = values.cells(), .payloads = values.payloads()};

        const auto next = [&bytes] {
            std::uint64_t word = 0;
            const std::size_t have = std::min(bytes.size(), sizeof word);
            if (have > 0) std::memcpy(&word, bytes.data(), have);
            bytes = bytes.subspan(have);
            return word;
        };
        auto& in = segment_.positions(hostile, honest);
        auto& out = segment_.positions(honest, hostile);
        std::byte* ring = segment_.at(segment_.ring_offset(hostile, honest));
        const std::uint64_t tail = next(), head = next(), attachment = next();
        for (std::size_t i = 0; i < chunk_words; i += 2) {
            const std::uint64_t owner = next(), note = next();
            auto& chunk = segment_.chunks()[i / 2];
            if (owner != 0) chunk.owner = owner;
            if (note != 0) {
                chunk.block_bytes = static_cast<std::uint32_t>(note);
                chunk.span = static_cast<std::uint32_t>(note >> 32);
            }
        }
        for (std::size_t i = 0; i < block_words; i += 2) {
            const std::uint64_t leases = next(), generation = next();
            if (leases != 0) segment_.blocks()[i / 2].leases |= leases & ~(std::uint64_t{1} << honest);
            if (generation != 0) segment_.blocks()[i / 2].generation = static_cast<std::uint32_t>(generation);
        }
        const std::size_t content = std::min<std::size_t>(bytes.size(), ring_bytes);
        if (content > 0) std::memcpy(ring, bytes.data(), content);
        segment_.attachments(honest).from[hostile] = attachment != 0 ? attachment : layout::attach_word(1, 1);
        in.tail = tail;

        (void)link->submit(call);
        link->publish();
        out.head = head;
        for (int frames = 0; frames < 2000; ++frames) {
            (void)link->ready();
            auto got = link->receive(std::as_writable_bytes(std::span(room_)));
            if (got.status == Status::too_large) {
                must(got.bytes <= segment_.geometry().arena_bytes, "more bytes than there are");
                room_.resize(got.bytes / 8 + 1);
                continue;
            }
            if (got.status != Status::ok) break;
            check_frame(got.frame);
            for (const Handle& payload : got.frame.payloads) {
                must(payload.offset <= segment_.geometry().arena_bytes &&
                         payload.bytes <= segment_.geometry().arena_bytes - payload.offset,
                     "an array outside the arena");
                (void)arena_.find(arena_.at(payload), payload.bytes);
                (void)arena_.release(payload.block, payload.generation);
            }
            if (got.frame.kind == wire::Kind::call) (void)link->answer({.kind = wire::Kind::reply, .id = got.frame.id});
        }
        (void)link->submit(call);
        link->pump();
        link->publish();
        link.reset();
        (void)arena_.release(mine.handle.block, mine.handle.generation);
        reclaim_leases(arena_memory(segment_), hostile);
        (void)return_orphans(arena_memory(segment_), pages_);
        must(arena_.usage().held_blocks == 0, "a lease that stayed behind");
        clean();
    }

private:
    void clean() {
        arena_.leave();
        for (std::uint64_t i = 0; i < segment_.geometry().chunk_count(); ++i) {
            segment_.chunks()[i].owner = 0;
            segment_.chunks()[i].block_bytes = 0;
            segment_.chunks()[i].span = 0;
        }
        for (std::size_t i = 0; i < segment_.geometry().chunk_count() * layout::blocks_per_chunk; ++i)
            segment_.blocks()[i].leases = 0;
        segment_.attachments(honest).from[hostile] = 0;
    }

    Segment segment_ = Segment::create("victim", ring_bytes, 4 * layout::chunk_bytes);
    SegmentPages pages_{segment_};
    Arena arena_{arena_memory(segment_), pages_, honest, 1, segment_.peer(honest).counters};
    std::vector<std::uint64_t> room_ = std::vector<std::uint64_t>(1024);
};

}  // namespace isthmus::fuzz
