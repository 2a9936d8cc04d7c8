#include "bus/arena.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace isthmus {

namespace {

constexpr std::uint64_t no_chunk = ~std::uint64_t{0};

std::uint32_t chunk_of(std::uint32_t block) { return block / layout::blocks_per_chunk; }

void count(layout::Word64& counter, std::uint64_t more = 1) { counter.fetch_add(more, std::memory_order_relaxed); }

}  // namespace

std::uint32_t ArenaMemory::blocks_in(std::uint64_t number) const {
    const layout::Chunk& chunk = chunks[number];
    const std::uint32_t block_bytes = chunk.block_bytes.load(std::memory_order_relaxed);
    if (block_bytes == 0) return chunk.span.load(std::memory_order_relaxed) != 0;
    if (block_bytes < layout::min_block_bytes || block_bytes > layout::chunk_bytes) return layout::blocks_per_chunk;
    return static_cast<std::uint32_t>(layout::chunk_bytes / block_bytes);
}

ArenaMemory::Extent ArenaMemory::extent(std::uint32_t block) const {
    const std::uint64_t chunk = chunk_of(block);
    if (chunk >= chunk_count()) return {};
    const std::uint64_t index = block % layout::blocks_per_chunk;
    const std::uint64_t block_bytes = chunks[chunk].block_bytes.load(std::memory_order_relaxed);
    const std::uint64_t span = chunks[chunk].span.load(std::memory_order_relaxed);
    if (block_bytes == 0) {
        if (index != 0 || span == 0 || span > chunk_count() - chunk) return {};
        return {chunk * layout::chunk_bytes, span * layout::chunk_bytes};
    }
    if (block_bytes > layout::chunk_bytes || (index + 1) * block_bytes > layout::chunk_bytes) return {};
    return {chunk * layout::chunk_bytes + index * block_bytes, block_bytes};
}

Arena::Arena(ArenaMemory memory, ArenaPages& pages, std::uint32_t slot, std::uint32_t generation,
             layout::Counters& counters)
    : memory_(memory),
      pages_(pages),
      bit_(std::uint64_t{1} << slot),
      owner_(layout::owner_word(generation, slot)),
      counters_(counters) {}

void Arena::set_quota(std::uint64_t bytes) {
    std::lock_guard lock(mutex_);
    quota_ = bytes / layout::chunk_bytes;
}

void Arena::set_poisoning(bool on) {
    std::lock_guard lock(mutex_);
    poisons_ = on;
}

int Arena::class_of(std::uint64_t bytes) {
    return std::bit_width(std::max(bytes, layout::min_block_bytes) - 1) - std::bit_width(layout::min_block_bytes - 1);
}

Arena::Allocation Arena::allocate(std::uint64_t bytes) {
    if (bytes > memory_.bytes) return {Status::too_large, {}};
    Lock lock(mutex_);
    Allocation made = bytes <= layout::chunk_bytes / 2 ? allocate_small(lock, bytes) : allocate_span(lock, bytes);
    made.handle.bytes = bytes;
    return made;
}

Arena::Allocation Arena::allocate_small(Lock& lock, std::uint64_t bytes) {
    SizeClass& blocks = small_[class_of(bytes)];
    enum { at_hand, after_looking, in_a_new_chunk };
    for (int where : {at_hand, after_looking, in_a_new_chunk}) {
        if (where == after_looking) look_for_idle(blocks);
        if (where == in_a_new_chunk) {
            const auto block_bytes = static_cast<std::uint32_t>(layout::min_block_bytes << class_of(bytes));
            const auto in_a_chunk = static_cast<std::uint32_t>(layout::chunk_bytes / block_bytes);
            const std::uint64_t chunk = take_chunks(lock, 1, in_a_chunk);
            if (chunk == no_chunk) break;
            own(chunk, block_bytes, 1);
        }
        while (!blocks.idle.empty()) {
            const std::uint32_t candidate = blocks.idle.back();
            blocks.idle.pop_back();
            if (const Allocation made = hand_out(candidate); made.status == Status::ok) return made;
        }
    }
    return {refusal(1), {}};
}

/// Why no chunks could be taken.
Status Arena::refusal(std::uint64_t chunks) const {
    return owned_ + chunks > quota_ ? Status::over_quota : Status::no_memory;
}

Arena::Allocation Arena::allocate_span(Lock& lock, std::uint64_t bytes) {
    const std::uint64_t need = (bytes + layout::chunk_bytes - 1) / layout::chunk_bytes;
    look_for_idle(spans_);
    // The tightest idle span that wastes at most a quarter; the warmest among equals.
    auto best = spans_.idle.end();
    for (auto it = spans_.idle.begin(); it != spans_.idle.end(); ++it) {
        const std::uint64_t span = own_[chunk_of(*it)].span;
        if (span < need || span > need + need / 4) continue;
        if (best == spans_.idle.end() || span <= own_[chunk_of(*best)].span) best = it;
    }
    if (best != spans_.idle.end()) {
        const std::uint32_t candidate = *best;
        spans_.idle.erase(best);
        if (const Allocation made = hand_out(candidate); made.status == Status::ok) return made;
    }
    const std::uint64_t chunk = take_chunks(lock, need, 1);
    if (chunk == no_chunk) return {refusal(need), {}};
    own(chunk, 0, static_cast<std::uint32_t>(need));
    const auto block = static_cast<std::uint32_t>(chunk * layout::blocks_per_chunk);
    spans_.idle.pop_back();
    Allocation made = hand_out(block);
    made.is_zero = true;
    return made;
}

/// Claims a block that is known to be idle. Not ok when a taker with a stale handle has its bit set for a moment: the
/// block then counts as handed out until it is seen free again.
Arena::Allocation Arena::hand_out(std::uint32_t index) {
    OwnChunk& chunk = own_[chunk_of(index)];
    chunk.is_out[index % layout::blocks_per_chunk] = true;
    ++chunk.out;
    chunk.touched = std::chrono::steady_clock::now();
    if (!lease::claim(block(index).leases, block(index).generation, bit_)) return {Status::no_memory, {}};
    const std::uint32_t generation = block(index).generation.load(std::memory_order_relaxed);
    holds_[index] = {generation, 1};
    count(counters_.leases_taken);
    // From private memory: others may have written into the chunk's note.
    const std::uint64_t offset =
        chunk_of(index) * layout::chunk_bytes + std::uint64_t{index % layout::blocks_per_chunk} * chunk.block_bytes;
    return {Status::ok, {offset, 0, index, generation}};
}

Arena::SizeClass& Arena::class_of(const OwnChunk& chunk) {
    return chunk.block_bytes ? small_[class_of(chunk.block_bytes)] : spans_;
}

void Arena::found_idle(OwnChunk& chunk, std::uint32_t index) {
    const std::uint32_t i = index % layout::blocks_per_chunk;
    if (i >= chunk.is_out.size() || !chunk.is_out[i]) return;  // a block that somebody else's bytes made up
    chunk.is_out[i] = false;
    --chunk.out;
    chunk.touched = std::chrono::steady_clock::now();
    class_of(chunk).idle.push_back(index);
    if (poisons_) {
        const std::uint64_t bytes = chunk.block_bytes ? chunk.block_bytes : chunk.span * layout::chunk_bytes;
        const std::uint64_t offset = chunk_of(index) * layout::chunk_bytes + std::uint64_t{i} * chunk.block_bytes;
        std::memset(memory_.base + offset, static_cast<int>(poison), bytes);
    }
}

void Arena::look_for_idle(SizeClass& blocks) {
    for (const std::uint32_t number : blocks.chunks) {
        OwnChunk& chunk = own_[number];
        for (std::uint32_t i = 0; i < chunk.is_out.size() && chunk.out > 0; ++i) {
            const std::uint32_t index = number * layout::blocks_per_chunk + i;
            if (chunk.is_out[i] && block(index).leases.load(std::memory_order_acquire) == 0) found_idle(chunk, index);
        }
    }
}

void Arena::own(std::uint64_t number, std::uint32_t block_bytes, std::uint32_t span) {
    memory_.chunks[number].block_bytes.store(block_bytes, std::memory_order_relaxed);
    memory_.chunks[number].span.store(span, std::memory_order_release);
    const std::uint32_t blocks = block_bytes ? static_cast<std::uint32_t>(layout::chunk_bytes / block_bytes) : 1;
    const auto first = static_cast<std::uint32_t>(number);
    OwnChunk& chunk = own_[first] = {block_bytes, span, std::chrono::steady_clock::now(), std::vector<bool>(blocks), 0};
    SizeClass& size_class = class_of(chunk);
    size_class.chunks.push_back(first);
    for (std::uint32_t i = blocks; i-- > 0;) size_class.idle.push_back(first * layout::blocks_per_chunk + i);
}

/// Free chunks in a row, if need be after giving back what is idle.
std::uint64_t Arena::take_chunks(Lock& lock, std::uint64_t wanted, std::uint32_t blocks) {
    std::uint64_t first = find_chunks(lock, wanted, blocks);
    if (first == no_chunk) {  // what is idle in one size may stand in the way of another
        const std::vector<Run> idle = disown_idle(std::chrono::steady_clock::time_point::max());
        for (const Run& run : idle) {
            give_up(run);
            note_returned(run);
        }
        if (!idle.empty()) first = find_chunks(lock, wanted, blocks);
    }
    // Another thread may be giving back what is enough: as long as finding new pages would take.
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    while (first == no_chunk && returning_ > 0 && owned_ - returning_ + wanted <= quota_) {
        if (returned_.wait_until(lock, patience) == std::cv_status::timeout) break;
        first = find_chunks(lock, wanted, blocks);
    }
    return first;
}

std::uint64_t Arena::find_chunks(Lock& lock, std::uint64_t wanted, std::uint32_t blocks) {
    if (owned_ + wanted > quota_) return no_chunk;
    const std::uint64_t all = memory_.chunk_count();
    if (wanted > all) return no_chunk;
    for (int lap = 0; lap < 2; ++lap) {
        std::uint64_t run = 0;
        for (std::uint64_t i = lap == 0 ? hint_ : 0; i < all; ++i) {
            run = memory_.chunks[i].owner.load(std::memory_order_relaxed) == 0 ? run + 1 : 0;
            if (run < wanted) continue;
            const std::uint64_t first = i + 1 - wanted;
            std::uint64_t taken = 0;
            for (; taken < wanted; ++taken) {
                std::uint64_t free = 0;
                auto& chunk = memory_.chunks[first + taken];
                if (!chunk.owner.compare_exchange_strong(free, owner_, std::memory_order_acq_rel)) break;
                chunk.block_bytes.store(0, std::memory_order_relaxed);
                chunk.span.store(0, std::memory_order_relaxed);
            }
            owned_ += wanted;
            Status status = Status::busy;
            if (taken == wanted) {
                lock.unlock();  // finding pages takes its time, and the chunks are nobody else's
                status = pages_.reserve(first, wanted, blocks);
                lock.lock();
            }
            if (status == Status::ok) {
                count(counters_.chunks_taken, wanted);
                hint_ = first + wanted;
                return first;
            }
            owned_ -= wanted;
            const bool lost_a_race = taken < wanted;
            for (std::uint64_t back = 0; back < taken; ++back)
                memory_.chunks[first + back].owner.store(0, std::memory_order_release);
            if (!lost_a_race) return no_chunk;
            run = 0;
        }
    }
    return no_chunk;
}

/// Of chunks that are this peer's no more by its own account: their pages go to the system, and they may be anybody's.
void Arena::give_up(const Run& run) {
    pages_.punch(run.first, run.chunks);
    // The notes stay: the broker looks for the leases of the dead in free chunks that were used.
    for (std::uint64_t i = run.first; i < run.first + run.chunks; ++i)
        memory_.chunks[i].owner.store(0, std::memory_order_release);
    count(counters_.chunks_returned, run.chunks);
}

void Arena::note_returned(const Run& run) {
    owned_ -= run.chunks;
    hint_ = std::min(hint_, run.first);
}

Status Arena::lease(const Handle& handle) {
    const auto extent = memory_.extent(handle.block);
    if (extent.bytes == 0 || handle.bytes > extent.bytes || handle.offset < extent.offset ||
        handle.offset - extent.offset > extent.bytes - handle.bytes) {
        return Status::corrupt;
    }
    std::lock_guard lock(mutex_);
    if (auto held = holds_.find(handle.block); held != holds_.end() && held->second.generation == handle.generation) {
        ++held->second.uses;
        return Status::ok;
    }
    if (!lease::take(block(handle.block).leases, block(handle.block).generation, bit_, handle.generation)) {
        count(counters_.leases_refused);
        return Status::stale;
    }
    holds_[handle.block] = {handle.generation, 1};
    count(counters_.leases_taken);
    return Status::ok;
}

Status Arena::retain(std::uint32_t index, std::uint32_t generation) {
    std::lock_guard lock(mutex_);
    auto held = holds_.find(index);
    if (held == holds_.end() || held->second.generation != generation) {
        count(counters_.leases_refused);
        return Status::stale;
    }
    ++held->second.uses;
    return Status::ok;
}

Status Arena::release(std::uint32_t index, std::uint32_t generation) {
    std::lock_guard lock(mutex_);
    auto held = holds_.find(index);
    if (held == holds_.end() || held->second.generation != generation) {
        count(counters_.leases_refused);
        return Status::stale;
    }
    if (--held->second.uses > 0) return Status::ok;
    holds_.erase(held);
    count(counters_.leases_released);
    if (lease::drop(block(index).leases, bit_)) {
        // The common case, one's own block come back: reuse it while it is warm, without a search.
        if (auto own = own_.find(chunk_of(index)); own != own_.end()) found_idle(own->second, index);
    }
    return Status::ok;
}

Handle Arena::find(const void* address, std::uint64_t bytes) {
    const auto* byte = static_cast<const std::byte*>(address);
    if (byte < memory_.base || byte >= memory_.base + memory_.bytes) return {};
    const auto offset = static_cast<std::uint64_t>(byte - memory_.base);
    const auto chunk = static_cast<std::uint32_t>(offset / layout::chunk_bytes);
    std::lock_guard lock(mutex_);
    const std::uint32_t block_bytes = memory_.chunks[chunk].block_bytes.load(std::memory_order_relaxed);
    std::uint32_t index = chunk * layout::blocks_per_chunk;
    if (block_bytes != 0) {
        index += static_cast<std::uint32_t>(offset % layout::chunk_bytes / block_bytes);
    } else {
        // In the middle of a span: walk back to the chunk that begins it. Only its owner writes a span other than 0.
        std::uint32_t first = chunk;
        while (first > 0 && memory_.chunks[first].span.load(std::memory_order_relaxed) == 0) --first;
        index = first * layout::blocks_per_chunk;
    }
    const auto held = holds_.find(index);
    const auto extent = memory_.extent(index);
    if (held == holds_.end() || offset < extent.offset || bytes > extent.bytes ||
        offset - extent.offset > extent.bytes - bytes) {
        return {};
    }
    return {offset, bytes, index, held->second.generation};
}

void Arena::trim(std::chrono::steady_clock::time_point idle_since) {
    Lock lock(mutex_);
    const std::vector<Run> idle = disown_idle(idle_since);
    for (const Run& run : idle) returning_ += run.chunks;
    for (const Run& run : idle) {
        lock.unlock();
        give_up(run);
        lock.lock();
        note_returned(run);
        returning_ -= run.chunks;
        returned_.notify_all();
    }
}

/// Takes chunks in which nothing has been handed out for so long off this peer's account.
std::vector<Arena::Run> Arena::disown_idle(std::chrono::steady_clock::time_point idle_since) {
    const auto every_class = [this](const auto& visit) {
        for (SizeClass& blocks : small_) visit(blocks);
        visit(spans_);
    };
    every_class([this](SizeClass& blocks) { look_for_idle(blocks); });
    std::vector<Run> idle;
    for (const auto& [first, chunk] : own_) {
        if (chunk.out == 0 && chunk.touched < idle_since) idle.push_back({first, chunk.span});
    }
    if (idle.empty()) return idle;
    for (const Run& run : idle) own_.erase(static_cast<std::uint32_t>(run.first));
    every_class([this](SizeClass& blocks) {
        std::erase_if(blocks.idle, [this](std::uint32_t index) { return !own_.contains(chunk_of(index)); });
        std::erase_if(blocks.chunks, [this](std::uint32_t first) { return !own_.contains(first); });
    });
    return idle;
}

void Arena::leave() {
    std::lock_guard lock(mutex_);
    for (const auto& [index, hold] : holds_) lease::drop(block(index).leases, bit_);
    holds_.clear();
    for (SizeClass& blocks : small_) look_for_idle(blocks);
    look_for_idle(spans_);
    for (const auto& [first, chunk] : own_) {
        if (chunk.out == 0) {
            give_up({first, chunk.span});
            continue;
        }
        for (std::uint32_t i = 0; i < chunk.span; ++i) {
            memory_.chunks[first + i].owner.store(layout::orphan, std::memory_order_release);
        }
    }
    own_.clear();
    for (SizeClass& blocks : small_) blocks = {};
    spans_ = {};
}

Arena::Usage Arena::usage() {
    std::lock_guard lock(mutex_);
    return {holds_.size(), own_.size()};
}

void reclaim_leases(const ArenaMemory& memory, std::uint32_t slot) {
    const std::uint64_t bit = std::uint64_t{1} << slot;
    for (std::uint64_t i = 0; i < memory.chunk_count(); ++i) {
        auto& chunk = memory.chunks[i];
        const std::uint64_t owner = chunk.owner.load(std::memory_order_acquire);
        const bool used = owner != 0 || chunk.block_bytes.load(std::memory_order_relaxed) != 0 ||
                          chunk.span.load(std::memory_order_relaxed) != 0;
        if (!used) continue;  // its block words have no pages yet
        for (std::uint32_t b = 0; b < memory.blocks_in(i); ++b) {
            auto& leases = memory.blocks[i * layout::blocks_per_chunk + b].leases;
            if (leases.load(std::memory_order_relaxed) & bit) lease::drop(leases, bit);
        }
        if ((owner & 0xff) == slot + 1) chunk.owner.store(layout::orphan, std::memory_order_release);
    }
}

std::uint64_t return_orphans(const ArenaMemory& memory, ArenaPages& pages) {
    std::uint64_t returned = 0;
    for (std::uint64_t i = 0; i < memory.chunk_count(); ++i) {
        auto& chunk = memory.chunks[i];
        if (chunk.owner.load(std::memory_order_acquire) != layout::orphan) continue;
        // Only the first chunk of a span has a note: what the dead wrote here is not believed over the next chunk's own note.
        const std::uint64_t span = chunk.span.load(std::memory_order_relaxed);
        std::uint64_t end = i + 1;
        while (end < memory.chunk_count() && end < i + span &&
               memory.chunks[end].span.load(std::memory_order_relaxed) == 0)
            ++end;
        bool leased = false;
        for (std::uint32_t b = 0; b < memory.blocks_in(i) && !leased; ++b) {
            leased = memory.blocks[i * layout::blocks_per_chunk + b].leases.load(std::memory_order_acquire) != 0;
        }
        for (std::uint64_t c = i; c < end && !leased; ++c) {
            if (memory.chunks[c].owner.load(std::memory_order_relaxed) != layout::orphan) continue;
            pages.punch(c, 1);
            memory.chunks[c].owner.store(0, std::memory_order_release);
            ++returned;
        }
        i = end - 1;
    }
    return returned;
}

}  // namespace isthmus
