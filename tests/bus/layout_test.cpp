// The layout, frozen. There is no code here: that it compiles is the check. Whoever changes a line of it changes what other
// processes see: raise layout::version and write the new hash.
#include <type_traits>

#include "bus/layout.hpp"
#include "bus/wire.hpp"

namespace isthmus::layout {

static_assert(version == 3);
static_assert(hash() == 0x9f50f2bbd85cbc37);
static_assert(magic == 0x3153554d48545349);

static_assert(max_peers == 64);
static_assert(page_bytes == 4096);
static_assert(least_ring_bytes == 65536);
static_assert(most_ring_bytes == 16777216);
static_assert(chunk_bytes == 262144);
static_assert(min_block_bytes == 256);
static_assert(blocks_per_chunk == 1024);
static_assert(far_apart == 128);

static_assert(sizeof(Header) == 4096 && alignof(Header) == 4096);
static_assert(offsetof(Header, magic) == 0);
static_assert(offsetof(Header, version) == 8);
static_assert(offsetof(Header, header_bytes) == 12);
static_assert(offsetof(Header, layout_hash) == 16);
static_assert(offsetof(Header, segment_bytes) == 24);
static_assert(offsetof(Header, ring_bytes) == 32);
static_assert(offsetof(Header, arena_bytes) == 40);
static_assert(offsetof(Header, quota_bytes) == 48);
static_assert(offsetof(Header, broker_pid) == 56);
static_assert(offsetof(Header, name) == 60);
static_assert(offsetof(Header, broker_life) == 128);
static_assert(offsetof(Header, broker_pulse) == 136);

static_assert(sizeof(Peer) == 1280 && alignof(Peer) == 128);
static_assert(offsetof(Peer, life) == 0);
static_assert(offsetof(Peer, pid) == 8);
static_assert(offsetof(Peer, kind) == 12);
static_assert(offsetof(Peer, service) == 16);
static_assert(offsetof(Peer, label) == 20);
static_assert(offsetof(Peer, pulse) == 128 && sizeof(Pulse) == 64);
static_assert(offsetof(Peer, asleep) == 256);
static_assert(offsetof(Peer, pickles) == 260);
static_assert(offsetof(Peer, retiring) == 272);
static_assert(offsetof(Peer, load) == 276);
static_assert(offsetof(Peer, counters) == 384);

static_assert(sizeof(Counters) == 824);
static_assert(offsetof(Counters, calls) == 0);
static_assert(offsetof(Counters, frames_sent) == 32);
static_assert(offsetof(Counters, wakes) == 80);
static_assert(offsetof(Counters, leases_refused) == 136);
static_assert(offsetof(Counters, batch_sizes) == 184);
static_assert(offsetof(Counters, latencies) == 312);

static_assert(sizeof(AttachRow) == 512 && alignof(AttachRow) == 128);
static_assert(sizeof(RingPositions) == 256 && alignof(RingPositions) == 128);
static_assert(offsetof(RingPositions, tail) == 0);
static_assert(offsetof(RingPositions, starved) == 8);
static_assert(offsetof(RingPositions, head) == 128);

static_assert(sizeof(RecordHeader) == 8);
static_assert(offsetof(RecordHeader, bytes) == 0 && offsetof(RecordHeader, kind) == 4);
static_assert(static_cast<std::uint32_t>(RecordKind::frame) == 1);
static_assert(static_cast<std::uint32_t>(RecordKind::indirect) == 2);
static_assert(static_cast<std::uint32_t>(RecordKind::padding) == 3);

static_assert(sizeof(Chunk) == 16);
static_assert(offsetof(Chunk, owner) == 0 && offsetof(Chunk, block_bytes) == 8 && offsetof(Chunk, span) == 12);
static_assert(sizeof(Block) == 16);
static_assert(offsetof(Block, leases) == 0 && offsetof(Block, generation) == 8);
static_assert(orphan == 0xff && owner_word(2, 63) == 0x240 && owner_word(1, 63) % 256 != orphan);

static_assert(static_cast<int>(Phase::free) == 0 && static_cast<int>(Phase::joining) == 1 &&
              static_cast<int>(Phase::live) == 2);
static_assert(static_cast<int>(Phase::left) == 3 && static_cast<int>(Phase::lost) == 4);
static_assert(life(7, Phase::live) == 0x702 && generation_of(0x702) == 7 && phase_of(0x702) == Phase::live);
static_assert(attach_word(1, 2) == 0x0000000100000002);

// Nothing in shared memory has a vtable, and nothing but the pulse a lock.
static_assert(std::is_standard_layout_v<Header> && std::is_standard_layout_v<Peer> &&
              std::is_standard_layout_v<Counters>);
static_assert(std::is_standard_layout_v<RingPositions> && std::is_standard_layout_v<Chunk> &&
              std::is_standard_layout_v<Block>);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free && std::atomic<std::uint64_t>::is_always_lock_free);

// 256 KiB rings and a 2 GiB arena: what a bus has when nobody asks for anything else.
constexpr Geometry usual = geometry(256 << 10, std::uint64_t{2} << 30);
static_assert(usual.peers == 0x1000);
static_assert(usual.attachments == 0x15000);
static_assert(usual.positions == 0x1d000);
static_assert(usual.chunks == 0x11d000);
static_assert(usual.blocks == 0x13d000);
static_assert(usual.ring_data == 0x813d000);
static_assert(usual.boards == 0x4813d000);
static_assert(usual.arena == 0x4853d000);
static_assert(usual.segment_bytes == 0xc853d000);

}  // namespace isthmus::layout

namespace isthmus {

static_assert(sizeof(Handle) == 24 && alignof(Handle) == 8);
static_assert(offsetof(Handle, offset) == 0 && offsetof(Handle, bytes) == 8);
static_assert(offsetof(Handle, block) == 16 && offsetof(Handle, generation) == 20);

static_assert(sizeof(wire::Cell) == 16 && alignof(wire::Cell) == 8);
static_assert(offsetof(wire::Cell, tag) == 0 && offsetof(wire::Cell, dtype) == 1 && offsetof(wire::Cell, flags) == 2);
static_assert(offsetof(wire::Cell, count) == 4 && offsetof(wire::Cell, bits) == 8);
static_assert(static_cast<int>(wire::Tag::tuple) == 16 && static_cast<int>(wire::DType::clamped8) == 15);
static_assert(static_cast<int>(wire::Kind::call) == 1 && static_cast<int>(wire::Kind::share) == 9);

}  // namespace isthmus
