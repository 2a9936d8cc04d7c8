// Two rings, two doorbells and the arena, as one conversation between two peers.
//
// Room for completions. Half of each ring is kept for replies and errors of at most `completion_bytes`, and a caller has
// no more calls in flight than fit there; a completion that is larger goes where room is left over, else to the arena. So
// giving an answer never waits, and two full rings can't wait for each other.
//
// Payloads. A frame that names blocks is sent with one use of each kept in transit by the sender, until the receiver's
// head has passed the frame; by then the receiver has its own leases. So no peer ever sets another's bit, and whatever dies
// in between, the survivors' leases are right.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "bus/arena.hpp"
#include "bus/peers.hpp"
#include "bus/ring.hpp"
#include "bus/segment.hpp"
#include "bus/wire.hpp"

namespace isthmus {

class Link {
public:
    /// Room that a completion is sure to find in the ring, with its record header.
    static constexpr std::uint64_t completion_bytes = 128;
    /// Room that calls leave for the one frame that cancels.
    static constexpr std::uint64_t cancel_bytes = 1024;
    /// The largest frame that travels in the ring; a larger one goes to the arena.
    static constexpr std::uint64_t inline_bytes = 8192;
    /// Frames waiting in private memory for room in the ring, in bytes, before submit says full.
    static constexpr std::uint64_t backlog_bytes = 256 << 20;

    struct Ends {
        std::uint32_t self, self_generation;
        std::uint32_t other, other_generation;
    };

    /// Prepares this side's half and attaches. no_memory when the ring gets no pages. `bell` is the other side's eventfd, or
    /// empty: then nobody is rung before it is set.
    static std::pair<Status, std::unique_ptr<Link>> open(const Segment& segment, Arena& arena, Ends ends, Fd bell);
    ~Link();
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;

    /// Sends anything but a reply or error. What finds no room waits in private memory, or in the arena when it is large, and goes
    /// out with `pump`; `full` when too much waits already. The draft's payloads must be in use by this peer; the link adds its own use of each.
    [[nodiscard]] Status submit(const wire::Draft& draft);
    /// The caller no longer waits for a call, or wants no more of its items. True when the call had not been sent yet: it is taken
    /// back, `withdrawn` is told of it, and no completion will come. Else the other side is told with the next publish, past
    /// everything that waits, and the completion still comes.
    bool cancel(std::uint64_t id, const std::function<void(const wire::Draft&)>& withdrawn);
    /// Sends a reply or error; never waits, but for the end of a stream, which stays behind the items that do. What can't be sent
    /// (no_memory, over_quota, too_large, stale) is told to the caller in its place, as an error of that status.
    [[nodiscard]] Status answer(const wire::Draft& draft);
    /// Shows what was sent to the other side, gives back room, and wakes the other side if it sleeps.
    void publish();
    /// Moves the backlog on, and ends transit uses that the other side has taken over.
    void pump();
    /// Ends transit uses that the other side has taken over. Any thread.
    void end_transits();

    struct Received {
        Status status;      // ok; empty; too_large: `bytes` of room are needed; corrupt or lost: the link is at its end
        wire::Draft frame;  // views `room`; of its payloads one use each is the caller's to release
        std::uint64_t bytes;
    };
    /// Copies the next frame to `room`, 8-byte aligned, verifies the copy and leases its payloads.
    Received receive(std::span<std::byte> room);

    /// Whether receive or pump would do something.
    bool ready();
    /// Before sleeping: asks to be woken when there is room again, if something waits for it.
    void starve();

    /// Whether a frame has arrived.
    bool receivable() { return attached() && state_ == Status::ok && in_.ready(); }
    /// Whether the other side has dropped this link, though it may live.
    bool dropped() const;
    /// The other side's eventfd has come: rings for what was shown without it.
    void set_bell(Fd bell);
    bool has_bell() const { return static_cast<bool>(bell_); }
    /// The other side's eventfd, for ringing it after this link has ended. Nothing is published afterwards.
    Fd take_bell() { return std::move(bell_); }

    const Ends& ends() const { return ends_; }
    /// Asks the other side for its last word, which stands behind its last call by name.
    void ask_last_word() {
        if (submit({.kind = wire::Kind::retire}) == Status::ok) publish();
    }
    /// It has come: those calls that came are all.
    void left_alone() { left_alone_ = true; }
    bool is_left_alone() const { return left_alone_ || state_ != Status::ok; }

    std::uint32_t in_flight() const { return in_flight_; }
    std::uint64_t waiting() const { return backlog_.size(); }
    /// Whether the other side has taken over everything that was submitted; before that, leaving loses messages.
    bool delivered() {
        pump();
        return backlog_.empty() && cancels_.empty() && transits_.load(std::memory_order_relaxed) == 0 &&
               (!attached() || (out_.look() && out_.consumed() == out_.written()));
    }
    /// Whether leaving now loses something: what waits here, or lies in the arena under this peer's leases. What is in the ring
    /// can be read afterwards.
    bool owes() {
        pump();
        return !backlog_.empty() || !cancels_.empty() || transits_.load(std::memory_order_relaxed) != 0;
    }
    /// ok until the link is found broken.
    Status state() const { return state_; }
    void fail(Status status) {
        if (state_ == Status::ok) state_ = status;
    }
    std::uint32_t most_in_flight() const;

private:
    Link(const Segment& segment, Arena& arena, Ends ends, Fd bell);

    bool attached();
    Status send(const wire::Draft& draft, std::uint64_t bytes, std::uint64_t reserve);
    Status send_indirect(const wire::Draft& draft, std::uint64_t bytes, std::uint64_t reserve);
    Arena::Allocation box(const wire::Draft& draft, std::uint64_t bytes);
    Status send_box(const Handle& box, std::span<const Handle> payloads, std::uint64_t reserve);
    Status defer(const wire::Draft& draft, std::uint64_t bytes);
    void in_transit(std::span<const Handle> payloads);
    void drop(std::span<const Handle> payloads);
    bool hold(std::span<const Handle> payloads);
    void note_sent(std::uint64_t bytes);
    void ring();
    bool settle(const wire::Draft& frame);
    std::uint64_t reserve_bytes() const { return out_.capacity() / 2; }
    std::uint64_t call_reserve_bytes() const { return reserve_bytes() + cancel_bytes; }

    struct Transit {
        std::uint64_t until;  // the head that ends it
        Handle block;
    };
    struct Waiting {
        std::vector<std::byte> frame;
        Handle box;  // or the frame is in here
        std::vector<Handle> payloads;
        bool is_call;
        bool passes;       // calls that wait for others to end
        std::uint64_t id;  // of a call
    };
    void end(Waiting& waiting);
    void send_cancels();

    const Segment& segment_;
    Arena& arena_;
    Ends ends_;
    Fd bell_;
    layout::Counters& counters_;
    layout::RingPositions& out_positions_;
    layout::RingPositions& in_positions_;
    ring::Producer out_;
    ring::Consumer in_;
    Status state_ = Status::ok;
    bool attached_ = false;
    bool starved_ = false;
    bool left_alone_ = false;
    std::uint32_t in_flight_ = 0;
    std::mutex transit_mutex_;
    std::deque<Transit> transit_;              // guarded by transit_mutex_
    std::atomic<std::uint64_t> transits_ = 0;  // its size
    std::deque<Waiting> backlog_;
    std::uint64_t backlog_size_ = 0;
    std::uint64_t passing_ = 0;                                 // in backlog_
    std::unordered_map<std::uint64_t, std::uint64_t> credits_;  // by stream: items that the other side may still send
    std::vector<wire::Cell> cancels_;                           // ids, to be sent
    std::uint64_t cancelled_until_ = 0;                         // the head that has passed the last cancel frame

    // One call in sixteen is timed.
    std::uint32_t calls_ = 0;
    std::uint64_t timed_id_ = 0;
    std::optional<doorbell::Clock::time_point> timed_since_;
};

/// Index in Counters::latencies: four buckets to each doubling, from 256 ns on.
std::uint32_t latency_bucket(std::uint64_t nanoseconds);
/// The smallest latency of a bucket, in nanoseconds.
std::uint64_t latency_of(std::uint32_t bucket);

}  // namespace isthmus
