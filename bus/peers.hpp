// Who is there, who died, what to give back.
//
// Each peer holds its pulse, a robust mutex, from joining to leaving. Whoever gets that mutex knows that the peer is gone: the
// kernel hands it over with EOWNERDEAD some 50 microseconds after the thread has died, also when its process lives on. A
// stopped process keeps its mutex and is not dead.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bus/arena.hpp"
#include "bus/doorbell.hpp"
#include "bus/segment.hpp"

namespace isthmus {

enum class PeerKind : std::uint32_t { unknown, node, bun, deno, python };

namespace peers {

/// Broker, before anyone joins: makes the mutex robust and shared.
void make_pulse(layout::Pulse& pulse);
/// Takes the pulse for the calling thread, which is the peer from now on. timed_out when a watcher is slow to let go.
Status start_pulse(layout::Pulse& pulse, doorbell::Deadline deadline);
/// Lets go. Only the thread that started it.
void stop_pulse(layout::Pulse& pulse);

/// live -> lost, by whoever finds the pulse stopped. True for the one who was first.
bool mark_lost(layout::Word64& life, std::uint32_t generation);

/// A thread that waits for a pulse to stop and then calls `gone` once, on that thread. `backstop` is asked four times a
/// second: true counts as stopped too. Destroying the watch does not wait for the thread: it ends by itself within a
/// quarter of a second and keeps the segment mapped so long.
class Watch {
public:
    Watch(std::shared_ptr<const Segment> segment, layout::Pulse& pulse, std::function<void()> gone,
          std::function<bool()> backstop = {});
    ~Watch();
    Watch(Watch&&) noexcept;
    Watch& operator=(Watch&&) noexcept;

private:
    struct State;
    std::shared_ptr<State> state_;
};

/// Broker: a free slot, the one unused for longest, set to `joining` with a new generation, all its words fresh.
/// max_peers when there is none.
std::uint32_t admit(const Segment& segment, std::uint32_t after, PeerKind kind, std::uint32_t pid,
                    std::uint32_t service, const std::string& label);

/// Broker: takes back the memory of a peer whose process is gone or who left.
void take_back(const Segment& segment, ArenaPages& pages, std::uint32_t slot);

/// Broker, afterwards: frees the slot and its rings, once every survivor has read what was left in them and has dropped its
/// link. False when one has not yet.
bool free_slot(const Segment& segment, std::uint32_t slot);

// Leaving without losing a call by name.
//
//   who retires                       a caller
//   retiring = 1                      attach to it
//   full fence        <------>        full fence                "retiring or attached"
//   see who has attached              retiring? then turn elsewhere
//   ask each for its last word        answer behind all calls that were sent
//
// As with a doorbell, at least one of the two sees what the other has written: a caller that turns to the peer nevertheless is
// one that is asked, and what came before its answer is all that ever comes.

/// Who retires: from now on callers that look turn elsewhere; then it sees who has attached.
template <class Word>
inline void retire(Word& retiring) {
    retiring.store(1, std::memory_order_relaxed);  // relaxed: the fence orders it
    doorbell::full_fence(retiring);                // pairs with "retiring or attached" in meet
}

/// A caller that has just attached, before it asks takes_calls.
template <class Word>
inline void meet(Word& retiring) {
    doorbell::full_fence(retiring);  // pairs with "retiring or attached" in retire
}

/// A caller: whether the peer takes calls by name. Relaxed: who sees the word late is asked for its last word.
template <class Word>
inline bool takes_calls(const Word& retiring) {
    return retiring.load(std::memory_order_relaxed) == 0;
}

/// Adds to a counter that one thread writes: cheaper than a read-modify-write, and its readers need no order.
inline void count(layout::Word64& counter, std::uint64_t more = 1) {
    counter.store(counter.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
}

}  // namespace peers

/// The arena's pages in a segment.
class SegmentPages : public ArenaPages {
public:
    explicit SegmentPages(const Segment& segment) : segment_(segment) {}
    Status reserve(std::uint64_t first_chunk, std::uint64_t chunks, std::uint32_t blocks) override;
    void punch(std::uint64_t first_chunk, std::uint64_t chunks) override;

private:
    const Segment& segment_;
};

ArenaMemory arena_memory(const Segment& segment);

}  // namespace isthmus
