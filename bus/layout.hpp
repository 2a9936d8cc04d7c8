// Every byte that another process can see. No behaviour.
//
//   offset 0
//   +-----------------+  Header          what this is, how large; written once, before anyone joins
//   | header          |
//   +-----------------+  Peer[64]        who is there: life, pulse, doorbell, counters
//   | peers           |
//   +-----------------+  Attach[64][64]  [to][from]: `from` says whom it is attached to
//   | attachments     |
//   +-----------------+  RingPositions[64][64]  [from][to]
//   | ring positions  |
//   +-----------------+  Chunk[n]        who allocates in which 256 KiB of the arena
//   | chunks          |
//   +-----------------+  Block[n][1024]  the leases on each block of a chunk
//   | blocks          |
//   +-----------------+  ring_bytes each, [from][to]
//   | ring data       |
//   +-----------------+  Board[64]       what each peer exports
//   | boards          |
//   +-----------------+
//   | arena           |
//   +-----------------+  segment_bytes
//
// The segment is sparse: a ring between two peers that never met, or a chunk that nobody took, has no pages.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace isthmus::layout {

inline constexpr std::uint64_t magic = 0x31'53'55'4d'48'54'53'49;  // "ISTHMUS1" in little-endian order
inline constexpr std::uint32_t version = 3;

inline constexpr std::uint32_t max_peers = 64;  // one lease bit each in one word
inline constexpr std::uint64_t page_bytes = 4096;
inline constexpr std::uint64_t least_ring_bytes = 64 * 1024;
inline constexpr std::uint64_t most_ring_bytes = 16 * 1024 * 1024;
inline constexpr std::uint64_t most_arena_bytes = std::uint64_t{1} << 40;
inline constexpr std::uint64_t chunk_bytes = 256 * 1024;
inline constexpr std::uint64_t min_block_bytes = 256;
inline constexpr std::uint32_t blocks_per_chunk = chunk_bytes / min_block_bytes;

// Two cache lines: the spatial prefetcher of x86 fetches lines in pairs, so one line apart is not apart.
inline constexpr std::size_t far_apart = 128;

using Word32 = std::atomic<std::uint32_t>;
using Word64 = std::atomic<std::uint64_t>;
static_assert(Word32::is_always_lock_free && Word64::is_always_lock_free);
static_assert(sizeof(Word32) == 4 && sizeof(Word64) == 8);

// A robust, process-shared mutex that its owner's thread holds as long as it lives; the kernel tells of its death
// in microseconds, where a socket's hang-up waits until the memory of the process is torn down.
union Pulse {
    pthread_mutex_t mutex;
    std::byte box[64];
};
static_assert(sizeof(pthread_mutex_t) <= 64);

struct alignas(page_bytes) Header {
    std::uint64_t magic;
    std::uint32_t version;
    std::uint32_t header_bytes;
    std::uint64_t layout_hash;
    std::uint64_t segment_bytes;
    std::uint64_t ring_bytes;
    std::uint64_t arena_bytes;
    std::uint64_t quota_bytes;  // of the arena, that one peer may own
    std::uint32_t broker_pid;
    char name[60];
    alignas(far_apart) Word64 broker_life;  // a Life of generation 1
    Pulse broker_pulse;
};

// What a peer is in. `left`: it ran its own clean-up. `lost`: its thread died; its process may still write.
enum class Phase : std::uint8_t { free, joining, live, left, lost };

// Peer::life = generation << 8 | phase. Free to joining: the broker. Joining to live, live to left: the peer.
// Live to lost: whoever finds its pulse stopped. Left or lost to free: the broker, once all is taken back.
constexpr std::uint64_t life(std::uint32_t generation, Phase phase) {
    return std::uint64_t{generation} << 8 | static_cast<std::uint8_t>(phase);
}
constexpr std::uint32_t generation_of(std::uint64_t life) { return static_cast<std::uint32_t>(life >> 8); }
constexpr Phase phase_of(std::uint64_t life) { return static_cast<Phase>(life & 0xff); }

// Written by the peer alone, read by anyone at any time, without help from the peer.
struct Counters {
    Word64 calls;  // submitted
    Word64 posts;
    Word64 replies;  // given
    Word64 errors;   // given
    Word64 frames_sent;
    Word64 frames_received;
    Word64 bytes_sent;  // of frames
    Word64 bytes_received;
    Word64 bytes_copied;  // of payloads, where one had to be copied into or out of the bus
    Word64 full;          // submissions that found no room
    Word64 wakes;         // eventfd writes made
    Word64 sleeps;
    Word64 spins;    // waits that ended before sleeping
    Word64 batches;  // sweeps that brought frames
    Word64 gil_takes;
    Word64 leases_taken;
    Word64 leases_released;
    Word64 leases_refused;  // stale, double or foreign
    Word64 chunks_taken;
    Word64 chunks_returned;
    Word64 links_opened;
    Word64 links_lost;
    Word64 links_corrupt;
    Word64 batch_sizes[16];  // [i]: batches of 2^i to 2^(i+1)-1 frames
    Word64 latencies[64];    // [i]: calls, by log-linear bucket of nanoseconds (bus/link.hpp)
};

struct alignas(far_apart) Peer {
    Word64 life;
    std::uint32_t pid;      // written by the broker while joining, like all of this line
    std::uint32_t kind;     // PeerKind
    std::uint32_t service;  // 0: it is none; else its number among the workers of its service, plus 1
    char label[44];
    alignas(far_apart) Pulse pulse;
    alignas(far_apart) Word32 asleep;  // bus/doorbell.hpp
    Word32 pickles;                    // 1: it asked to be sent pickles; written by itself before it is live
    Word64 board;                      // generation << 32 | count of writes to its Board, odd during one
    Word32 retiring;                   // 1: it takes no new calls; written by itself, like the next
    Word32 load;                       // calls that it has received and not answered, as of its last look
    alignas(far_apart) Counters counters;
};

// [to][from], written by `from` alone: generation of from << 32 | generation of to. A link stands while both sides'
// words name both generations; before that, neither looks at the other's half of the positions.
struct alignas(far_apart) AttachRow {
    Word64 from[max_peers];
};
constexpr std::uint64_t attach_word(std::uint32_t from_generation, std::uint32_t to_generation) {
    return std::uint64_t{from_generation} << 32 | to_generation;
}

// Monotonic byte positions; modulo ring_bytes they index the ring's data.
struct alignas(far_apart) RingPositions {
    Word64 tail;     // written by the producer: records below it are complete
    Word32 starved;  // written by the producer: 1 while it waits for room, so that the consumer wakes it
    alignas(far_apart) Word64 head;  // written by the consumer: records below it have been copied out
};

// Written by its peer alone, read by anyone at any time (bus/board.hpp). It has pages once Peer::board tells of names.
inline constexpr std::uint64_t board_bytes = 64 * 1024 - 8;
struct alignas(page_bytes) Board {
    Word64 bytes;                   // of what follows
    Word64 words[board_bytes / 8];  // for each name its length in 16 bits, then its UTF-8
};

// In front of each record's bytes, 8-byte aligned. A record is real once the tail has passed it.
struct RecordHeader {
    std::uint32_t bytes;  // of the payload, without this header and the alignment
    std::uint32_t kind;   // RecordKind
};
enum class RecordKind : std::uint32_t {
    frame = 1,     // a FlatBuffers frame
    indirect = 2,  // a wire::Payload: the frame is in the arena
    padding = 3,   // to the ring's end
};

// One CAS writes `owner`; the rest is written by the owner while it owns the chunk.
struct Chunk {
    Word64 owner;        // 0: free; generation << 8 | slot + 1; orphan: the broker minds it
    Word32 block_bytes;  // of each block in it; 0: it is the first of `span` chunks that are one block
    Word32 span;
};
inline constexpr std::uint64_t orphan = 0xff;
constexpr std::uint64_t owner_word(std::uint32_t generation, std::uint32_t slot) {
    return std::uint64_t{generation} << 8 | (slot + 1);
}

// A block is named by chunk index * 1024 + index in its chunk. Its generation counts how often it was handed out.
struct Block {
    Word64 leases;  // bit i: peer i has a claim; a bit is set and cleared by its peer, and cleared for the dead
    Word32 generation;
    std::uint32_t unused;
};

static_assert(sizeof(Header) == page_bytes);
static_assert(offsetof(Header, broker_life) == 128 && offsetof(Header, broker_pulse) == 136);
static_assert(sizeof(Counters) == 8 * (23 + 16 + 64));
static_assert(offsetof(Peer, pulse) == 128 && offsetof(Peer, asleep) == 256 && offsetof(Peer, counters) == 384);
static_assert(sizeof(Peer) == 1280);
static_assert(sizeof(AttachRow) == 512);
static_assert(sizeof(RingPositions) == 256 && offsetof(RingPositions, head) == 128);
static_assert(sizeof(Board) == 64 * 1024);
static_assert(sizeof(RecordHeader) == 8 && sizeof(Chunk) == 16 && sizeof(Block) == 16);

/// Where everything is, from the two sizes that a bus is created with.
struct Geometry {
    std::uint64_t ring_bytes;   // a power of two
    std::uint64_t arena_bytes;  // a multiple of chunk_bytes
    std::uint64_t peers, attachments, positions, chunks, blocks, ring_data, boards, arena, segment_bytes;

    constexpr std::uint64_t chunk_count() const { return arena_bytes / chunk_bytes; }
};

constexpr std::uint64_t up_to_page(std::uint64_t bytes) { return (bytes + page_bytes - 1) / page_bytes * page_bytes; }

constexpr Geometry geometry(std::uint64_t ring_bytes, std::uint64_t arena_bytes) {
    Geometry g{};
    g.ring_bytes = ring_bytes;
    g.arena_bytes = arena_bytes;
    g.peers = sizeof(Header);
    g.attachments = up_to_page(g.peers + max_peers * sizeof(Peer));
    g.positions = up_to_page(g.attachments + max_peers * sizeof(AttachRow));
    g.chunks = up_to_page(g.positions + std::uint64_t{max_peers} * max_peers * sizeof(RingPositions));
    g.blocks = up_to_page(g.chunks + g.chunk_count() * sizeof(Chunk));
    g.ring_data = up_to_page(g.blocks + g.chunk_count() * blocks_per_chunk * sizeof(Block));
    g.boards = g.ring_data + max_peers * max_peers * ring_bytes;
    g.arena = g.boards + max_peers * sizeof(Board);
    g.segment_bytes = g.arena + arena_bytes;
    return g;
}

/// FNV-1a over every size and offset above: two builds that disagree about one of them refuse each other.
constexpr std::uint64_t hash() {
    std::uint64_t h = 0xcbf29ce484222325;
    for (std::uint64_t fact : {std::uint64_t{version},
                               std::uint64_t{max_peers},
                               page_bytes,
                               chunk_bytes,
                               min_block_bytes,
                               std::uint64_t{sizeof(Header)},
                               std::uint64_t{sizeof(Peer)},
                               std::uint64_t{offsetof(Peer, pulse)},
                               std::uint64_t{offsetof(Peer, asleep)},
                               std::uint64_t{offsetof(Peer, pickles)},
                               std::uint64_t{offsetof(Peer, board)},
                               std::uint64_t{offsetof(Peer, retiring)},
                               std::uint64_t{offsetof(Peer, load)},
                               std::uint64_t{offsetof(Peer, counters)},
                               std::uint64_t{sizeof(Counters)},
                               std::uint64_t{sizeof(AttachRow)},
                               std::uint64_t{sizeof(RingPositions)},
                               std::uint64_t{offsetof(RingPositions, head)},
                               std::uint64_t{sizeof(RecordHeader)},
                               std::uint64_t{sizeof(Board)},
                               std::uint64_t{sizeof(Chunk)},
                               std::uint64_t{sizeof(Block)},
                               std::uint64_t{sizeof(pthread_mutex_t)}}) {
        for (int byte = 0; byte < 8; ++byte) h = (h ^ (fact >> (8 * byte) & 0xff)) * 0x100000001b3;
    }
    return h;
}

}  // namespace isthmus::layout
