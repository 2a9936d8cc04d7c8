// Blocks for payloads too large for a ring, and leases on them, in given memory.
//
// A chunk of the arena belongs to one peer, who took it with one CAS and alone hands out the blocks in it, from metadata in its
// own memory. A block lives as long as any bit of its lease word is set; bit i is set and cleared by peer i alone. Who clears
// the last bit frees the block, and its owner finds that by looking. No list is shared, so no death leaves one broken.
//
//   owner:  lease word 0?  generation + 1    CAS lease word 0 -> own bit     "generation before claim"
//   taker:  set own bit (was it 0? then nobody vouched: undo)    same generation? else undo
//
// A taker with a stale handle either sets its bit before the CAS, which then fails, so the owner leaves the block alone; or
// after it, and then sees the new generation. So bytes are never handed out under a lease.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "bus/layout.hpp"
#include "bus/status.hpp"

namespace isthmus {

/// A piece of a block, as it travels. `offset` counts from the arena's start.
struct Handle {
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::uint32_t block = 0;
    std::uint32_t generation = 0;
};

namespace lease {

/// Owner: makes a block that nobody leases its own again. False while anybody does.
template <class Leases, class Generation>
bool claim(Leases& leases, Generation& generation, std::uint64_t bit) {
    if (leases.load(std::memory_order_acquire) != 0) return false;  // pairs with "last use" in drop
    generation.fetch_add(1, std::memory_order_relaxed);             // relaxed: the CAS behind it releases it
    std::uint64_t nobody = 0;
    return leases.compare_exchange_strong(nobody, bit,
                                          std::memory_order_acq_rel);  // pairs with "generation before claim"
}

/// Taker: sets its bit if the block is still of `expected` generation and somebody vouches for it.
template <class Leases, class Generation>
bool take(Leases& leases, Generation& generation, std::uint64_t bit, std::uint32_t expected) {
    const std::uint64_t before =
        leases.fetch_or(bit, std::memory_order_acq_rel);  // pairs with "generation before claim"
    if (before != 0 && generation.load(std::memory_order_relaxed) == expected) return true;
    if ((before & bit) == 0) leases.fetch_and(~bit, std::memory_order_release);
    return false;
}

/// Clears a bit. True if it was the last one.
template <class Leases>
bool drop(Leases& leases, std::uint64_t bit) {
    return leases.fetch_and(~bit, std::memory_order_acq_rel) == bit;  // pairs with "last use": reads before reuse
}

}  // namespace lease

/// Where the arena lies and how it grows.
struct ArenaMemory {
    layout::Chunk* chunks;
    layout::Block* blocks;
    std::byte* base;
    std::uint64_t bytes;

    std::uint64_t chunk_count() const { return bytes / layout::chunk_bytes; }

    /// How many block words of a chunk are in use, from its owner's note: none inside of a span, where they have no pages. A note
    /// that makes no sense counts as the most there can be.
    std::uint32_t blocks_in(std::uint64_t chunk) const;
    struct Extent {
        std::uint64_t offset = 0, bytes = 0;  // bytes 0: no such block
    };
    /// Where a block lies, from what its chunk's owner wrote, checked so that the extent is inside the arena.
    Extent extent(std::uint32_t block) const;
};

/// Gives pages to, or takes them from, a range of the arena and its block table. Segment in the bus, a fake in tests.
class ArenaPages {
public:
    virtual ~ArenaPages() = default;
    /// `blocks`: how many words of the first chunk's block table will be used; those of the others are not.
    virtual Status reserve(std::uint64_t first_chunk, std::uint64_t chunks, std::uint32_t blocks) = 0;
    virtual void punch(std::uint64_t first_chunk, std::uint64_t chunks) = 0;
};

/// One peer's view of the arena: what it has allocated and what it leases. All members may be called from any thread
/// of the peer (finalizers run where they like); one mutex, private to the peer, guards them.
class Arena {
public:
    Arena(ArenaMemory memory, ArenaPages& pages, std::uint32_t slot, std::uint32_t generation,
          layout::Counters& counters);

    /// How much of the arena this peer may own at most, in whole chunks. Everything, if it is not set.
    void set_quota(std::uint64_t bytes);
    /// From now on, what this peer finds free in its chunks is filled with `poison`: whoever still reads it sees that.
    void set_poisoning(bool on);
    static constexpr std::byte poison{0xdb};

    struct Allocation {
        Status status;  // ok, no_memory, over_quota, too_large
        Handle handle;
        bool is_zero = false;  // known to be, as its pages are new
    };
    /// A block of at least `bytes`, 256-byte aligned (4096 from 4 KiB on), uninitialised, used once by this peer. Other threads may
    /// use the arena while the system finds pages for it.
    Allocation allocate(std::uint64_t bytes);

    /// One more use of a block by this peer, from a handle that another peer published. stale if it is gone,
    /// corrupt if the handle lies outside its block.
    [[nodiscard]] Status lease(const Handle& handle);
    /// One more use of a block that this peer uses already. stale if it does not.
    [[nodiscard]] Status retain(std::uint32_t block, std::uint32_t generation);
    /// One use less; the last one clears this peer's lease. A release too many is stale, counted, and harmless.
    Status release(std::uint32_t block, std::uint32_t generation);

    /// The handle of memory that this peer uses: a slice of an allocated or leased block. bytes 0 if it is not that.
    Handle find(const void* address, std::uint64_t bytes);

    std::byte* at(const Handle& handle) const { return memory_.base + handle.offset; }
    const ArenaMemory& memory() const { return memory_; }

    /// Gives chunks that have been idle since before `idle_since` back to the bus and their pages to the system. The kernel
    /// takes the pages while others may use the arena.
    void trim(std::chrono::steady_clock::time_point idle_since);

    /// Ends everything at once, when the peer leaves: all its leases are cleared; chunks without leases are given back, the
    /// others become orphans for the broker.
    void leave();

    struct Usage {
        std::uint64_t held_blocks, owned_chunks;
    };
    Usage usage();

private:
    struct Hold {
        std::uint32_t generation;
        std::uint32_t uses;
    };
    struct OwnChunk {
        std::uint32_t block_bytes;  // 0: a span
        std::uint32_t span;
        std::chrono::steady_clock::time_point touched;
        std::vector<bool> is_out;  // by block: handed out, and not known to be free again
        std::uint32_t out;         // how many of them
    };
    struct Run {
        std::uint64_t first, chunks;
    };
    struct SizeClass {
        std::vector<std::uint32_t> idle;    // blocks known to be free, warmest last
        std::vector<std::uint32_t> chunks;  // all chunks of this class
    };

    static constexpr int size_classes = 10;  // 256 B to 128 KiB, powers of two
    static int class_of(std::uint64_t bytes);

    using Lock = std::unique_lock<std::mutex>;
    Allocation allocate_small(Lock& lock, std::uint64_t bytes);
    Allocation allocate_span(Lock& lock, std::uint64_t bytes);
    Allocation hand_out(std::uint32_t block);
    void found_idle(OwnChunk& chunk, std::uint32_t block);
    void look_for_idle(SizeClass& size_class);
    SizeClass& class_of(const OwnChunk& chunk);
    void own(std::uint64_t chunk, std::uint32_t block_bytes, std::uint32_t span);
    std::vector<Run> disown_idle(std::chrono::steady_clock::time_point idle_since);
    std::uint64_t take_chunks(Lock& lock, std::uint64_t count, std::uint32_t blocks);
    std::uint64_t find_chunks(Lock& lock, std::uint64_t count, std::uint32_t blocks);
    Status refusal(std::uint64_t chunks) const;
    void give_up(const Run& run);
    void note_returned(const Run& run);
    layout::Block& block(std::uint32_t index) const { return memory_.blocks[index]; }

    ArenaMemory memory_;
    ArenaPages& pages_;
    const std::uint64_t bit_;
    const std::uint64_t owner_;
    layout::Counters& counters_;

    std::mutex mutex_;
    std::condition_variable returned_;
    std::uint64_t returning_ = 0;  // chunks of owned_ that trim is giving back
    std::unordered_map<std::uint32_t, Hold> holds_;
    std::unordered_map<std::uint32_t, OwnChunk> own_;  // by first chunk
    SizeClass small_[size_classes];
    SizeClass spans_;
    std::uint64_t owned_ = 0, quota_ = ~std::uint64_t{0};  // chunks
    std::uint64_t hint_ = 0;                               // where the search for free chunks starts
    bool poisons_ = false;
};

/// Broker: clears the leases of a peer whose process is gone (or who left) and makes its chunks orphans.
void reclaim_leases(const ArenaMemory& memory, std::uint32_t slot);
/// Broker: returns orphaned chunks whose blocks nobody leases any more. The number of chunks returned.
std::uint64_t return_orphans(const ArenaMemory& memory, ArenaPages& pages);

}  // namespace isthmus
