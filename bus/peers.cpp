#include "bus/peers.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <thread>

namespace isthmus {

namespace peers {

namespace {

timespec time_of(doorbell::Deadline deadline) {
    const auto since = deadline.time_since_epoch();
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since);
    return {static_cast<time_t>(seconds.count()), static_cast<long>((since - seconds).count())};
}

/// ok when the calling thread holds the mutex now.
Status lock(layout::Pulse& pulse, doorbell::Deadline deadline) {
    const timespec until = time_of(deadline);
    const int result = ::pthread_mutex_clocklock(&pulse.mutex, CLOCK_MONOTONIC, &until);
    if (result == EOWNERDEAD) {
        ::pthread_mutex_consistent(&pulse.mutex);
        return Status::ok;
    }
    return result == 0 ? Status::ok : Status::timed_out;
}

}  // namespace

void make_pulse(layout::Pulse& pulse) {
    pthread_mutexattr_t attributes;
    ::pthread_mutexattr_init(&attributes);
    ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    ::pthread_mutex_init(&pulse.mutex, &attributes);
    ::pthread_mutexattr_destroy(&attributes);
}

Status start_pulse(layout::Pulse& pulse, doorbell::Deadline deadline) { return lock(pulse, deadline); }

void stop_pulse(layout::Pulse& pulse) { ::pthread_mutex_unlock(&pulse.mutex); }

bool mark_lost(layout::Word64& life, std::uint32_t generation) {
    std::uint64_t live = layout::life(generation, layout::Phase::live);
    return life.compare_exchange_strong(live, layout::life(generation, layout::Phase::lost), std::memory_order_acq_rel);
}

struct Watch::State {
    std::shared_ptr<const Segment> segment;
    std::function<void()> gone;
    std::function<bool()> backstop;
    std::atomic<bool> stop{false};
};

Watch::Watch(std::shared_ptr<const Segment> segment, layout::Pulse& pulse, std::function<void()> gone,
             std::function<bool()> backstop)
    : state_(std::make_shared<State>()) {
    state_->segment = std::move(segment);
    state_->gone = std::move(gone);
    state_->backstop = std::move(backstop);
    std::thread([state = state_, &pulse] {
        using namespace std::chrono_literals;
        for (;;) {
            const bool locked = lock(pulse, doorbell::Clock::now() + 250ms) == Status::ok;
            if (locked) stop_pulse(pulse);
            if (state->stop.load(std::memory_order_acquire)) return;
            if (locked || (state->backstop && state->backstop())) {
                state->gone();
                return;
            }
        }
    }).detach();
}

Watch::~Watch() {
    if (state_) state_->stop.store(true, std::memory_order_release);
}
Watch::Watch(Watch&&) noexcept = default;
Watch& Watch::operator=(Watch&& other) noexcept {
    std::swap(state_, other.state_);
    return *this;
}

std::uint32_t admit(const Segment& segment, std::uint32_t after, PeerKind kind, std::uint32_t pid,
                    std::uint32_t service, const std::string& label) {
    for (std::uint32_t step = 0; step < layout::max_peers; ++step) {
        const std::uint32_t slot = (after + step) % layout::max_peers;
        auto& peer = segment.peer(slot);
        const std::uint64_t life = peer.life.load(std::memory_order_acquire);
        if (layout::phase_of(life) != layout::Phase::free) continue;
        peer.pid = pid;
        peer.kind = static_cast<std::uint32_t>(kind);
        peer.service = service;
        std::memset(peer.label, 0, sizeof peer.label);
        label.copy(peer.label, sizeof peer.label - 1);
        peer.asleep.store(0, std::memory_order_relaxed);
        peer.retiring.store(0, std::memory_order_relaxed);
        peer.load.store(0, std::memory_order_relaxed);
        new (&peer.counters) layout::Counters{};
        peer.life.store(layout::life(layout::generation_of(life) + 1, layout::Phase::joining),
                        std::memory_order_release);
        return slot;
    }
    return layout::max_peers;
}

void take_back(const Segment& segment, ArenaPages& pages, std::uint32_t slot) {
    const ArenaMemory memory = arena_memory(segment);
    reclaim_leases(memory, slot);
    return_orphans(memory, pages);
}

bool free_slot(const Segment& segment, std::uint32_t slot) {
    for (std::uint32_t other = 0; other < layout::max_peers; ++other) {
        if (other == slot || segment.attachments(slot).from[other].load(std::memory_order_acquire) == 0)
            continue;  // "detach"
        const auto phase = layout::phase_of(segment.peer(other).life.load(std::memory_order_acquire));
        if (phase == layout::Phase::live) return false;
    }
    const std::uint64_t ring_bytes = segment.geometry().ring_bytes;
    segment.punch(segment.ring_offset(slot, 0), ring_bytes * layout::max_peers);
    for (std::uint32_t other = 0; other < layout::max_peers; ++other) {
        segment.punch(segment.ring_offset(other, slot), ring_bytes);
        segment.attachments(other).from[slot].store(0, std::memory_order_release);
    }
    auto& life = segment.peer(slot).life;
    life.store(layout::life(layout::generation_of(life.load(std::memory_order_acquire)), layout::Phase::free),
               std::memory_order_release);
    return true;
}

}  // namespace peers

namespace {

/// Pages come and go in steps: while the kernel is at one, whoever else on the bus needs or returns some waits.
constexpr std::uint64_t step_bytes = 2 << 20;

}  // namespace

Status SegmentPages::reserve(std::uint64_t first_chunk, std::uint64_t chunks, std::uint32_t blocks) {
    const auto& g = segment_.geometry();
    constexpr std::uint64_t table_bytes = layout::blocks_per_chunk * sizeof(layout::Block);
    const Status tables = segment_.reserve(g.blocks + first_chunk * table_bytes, blocks * sizeof(layout::Block));
    if (tables != Status::ok) return tables;
    const std::uint64_t first = g.arena + first_chunk * layout::chunk_bytes, end = first + chunks * layout::chunk_bytes;
    for (std::uint64_t at = first; at < end; at += step_bytes) {
        const Status status = segment_.reserve(at, std::min(step_bytes, end - at));
        if (status == Status::ok) continue;
        segment_.punch(first, at - first);
        return status;
    }
    return Status::ok;
}

void SegmentPages::punch(std::uint64_t first_chunk, std::uint64_t chunks) {
    const std::uint64_t first = segment_.geometry().arena + first_chunk * layout::chunk_bytes;
    const std::uint64_t end = first + chunks * layout::chunk_bytes;
    for (std::uint64_t at = first; at < end; at += step_bytes) segment_.punch(at, std::min(step_bytes, end - at));
}

ArenaMemory arena_memory(const Segment& segment) {
    const auto& g = segment.geometry();
    return {segment.chunks(), segment.blocks(), segment.at(g.arena), g.arena_bytes};
}

}  // namespace isthmus
