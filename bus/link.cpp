#include "bus/link.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace isthmus {

using peers::count;

std::uint32_t latency_bucket(std::uint64_t nanoseconds) {
    if (nanoseconds < 256) return 0;
    const auto octave = static_cast<std::uint32_t>(std::bit_width(nanoseconds)) - 9;
    return std::min<std::uint32_t>(63, 4 * octave + static_cast<std::uint32_t>(nanoseconds >> (octave + 6) & 3));
}

std::uint64_t latency_of(std::uint32_t bucket) {
    return bucket == 0 ? 0 : (std::uint64_t{4} + bucket % 4) << (bucket / 4 + 6);
}

Link::Link(const Segment& segment, Arena& arena, Ends ends, Fd bell)
    : segment_(segment),
      arena_(arena),
      ends_(ends),
      bell_(std::move(bell)),
      counters_(segment.peer(ends.self).counters),
      out_positions_(segment.positions(ends.self, ends.other)),
      in_positions_(segment.positions(ends.other, ends.self)),
      out_(out_positions_, segment.at(segment.ring_offset(ends.self, ends.other)), segment.geometry().ring_bytes),
      in_(in_positions_, segment.at(segment.ring_offset(ends.other, ends.self)), segment.geometry().ring_bytes) {}

std::pair<Status, std::unique_ptr<Link>> Link::open(const Segment& segment, Arena& arena, Ends ends, Fd bell) {
    const Status reserved = segment.reserve(segment.ring_offset(ends.self, ends.other), segment.geometry().ring_bytes);
    if (reserved != Status::ok) return {reserved, nullptr};
    std::unique_ptr<Link> link(new Link(segment, arena, ends, std::move(bell)));
    // This side's three words; the other side's are its own to reset, and are not looked at before it has attached.
    link->out_positions_.tail.store(0, std::memory_order_relaxed);
    link->out_positions_.starved.store(0, std::memory_order_relaxed);
    link->in_positions_.head.store(0, std::memory_order_relaxed);
    segment.attachments(ends.other)
        .from[ends.self]
        .store(layout::attach_word(ends.self_generation, ends.other_generation),
               std::memory_order_release);  // pairs with "attach" in attached
    count(link->counters_.links_opened);
    if (link->has_bell() && doorbell::must_ring(segment.peer(ends.other).asleep)) link->ring();
    return {Status::ok, std::move(link)};
}

Link::~Link() {
    for (const Transit& transit : transit_) (void)arena_.release(transit.block.block, transit.block.generation);
    for (Waiting& waiting : backlog_) end(waiting);
    segment_.attachments(ends_.other)
        .from[ends_.self]
        .store(0, std::memory_order_release);  // pairs with "detach" in peers
}

bool Link::attached() {
    if (!attached_) {
        attached_ = segment_.attachments(ends_.self)
                        .from[ends_.other]
                        .load(std::memory_order_acquire) ==  // pairs with "attach"
                    layout::attach_word(ends_.other_generation, ends_.self_generation);
    }
    return attached_;
}

bool Link::dropped() const {
    return attached_ && segment_.attachments(ends_.self).from[ends_.other].load(std::memory_order_acquire) !=
                            layout::attach_word(ends_.other_generation, ends_.self_generation);
}

std::uint32_t Link::most_in_flight() const {
    // Two fewer than fit: a record that would cross the ring's end leaves less than one record's room unused there.
    return static_cast<std::uint32_t>((reserve_bytes() - cancel_bytes) / completion_bytes - 2);
}

bool Link::hold(std::span<const Handle> payloads) {
    for (std::size_t i = 0; i < payloads.size(); ++i) {
        if (arena_.retain(payloads[i].block, payloads[i].generation) == Status::ok) continue;
        drop(payloads.first(i));
        return false;
    }
    return true;
}

void Link::drop(std::span<const Handle> payloads) {
    for (const Handle& payload : payloads) (void)arena_.release(payload.block, payload.generation);
}

void Link::in_transit(std::span<const Handle> payloads) {
    if (payloads.empty()) return;
    std::lock_guard lock(transit_mutex_);
    for (const Handle& payload : payloads) transit_.push_back({out_.written(), payload});
    transits_.store(transit_.size(), std::memory_order_relaxed);
}

void Link::note_sent(std::uint64_t bytes) {
    count(counters_.frames_sent);
    count(counters_.bytes_sent, bytes);
}

/// Puts a frame into the ring, or into the arena with its handle in the ring. full when the ring has no room. The uses of
/// the draft's payloads, taken by the caller, are in transit afterwards.
Status Link::send(const wire::Draft& draft, std::uint64_t bytes, std::uint64_t reserve) {
    if (bytes > inline_bytes) return send_indirect(draft, bytes, reserve);
    const auto claim = out_.claim(bytes, reserve);
    if (claim.status != Status::ok) return claim.status;
    wire::write(draft, claim.bytes);
    out_.commit(layout::RecordKind::frame, bytes);
    in_transit(draft.payloads);
    note_sent(bytes);
    return Status::ok;
}

Status Link::send_indirect(const wire::Draft& draft, std::uint64_t bytes, std::uint64_t reserve) {
    const auto room = out_.claim(sizeof(Handle), reserve);
    if (room.status != Status::ok) return room.status;
    out_.abort();
    const auto made = box(draft, bytes);
    return made.status == Status::ok ? send_box(made.handle, draft.payloads, reserve) : made.status;
}

/// A block of the arena with the frame in it, used once by this peer.
Arena::Allocation Link::box(const wire::Draft& draft, std::uint64_t bytes) {
    const auto made = arena_.allocate(bytes);
    if (made.status == Status::ok) wire::write(draft, arena_.at(made.handle));
    return made;
}

Status Link::send_box(const Handle& box, std::span<const Handle> payloads, std::uint64_t reserve) {
    const auto claim = out_.claim(sizeof box, reserve);
    if (claim.status != Status::ok) return claim.status;
    std::memcpy(claim.bytes, &box, sizeof box);
    out_.commit(layout::RecordKind::indirect, sizeof box);
    in_transit(payloads);
    in_transit({&box, 1});
    note_sent(box.bytes);
    return Status::ok;
}

namespace {

bool is_completion(const wire::Draft& draft) {
    return draft.kind == wire::Kind::reply || draft.kind == wire::Kind::error;
}

/// What belongs to a call that is being performed; a release or a share does not, as it must stay behind what it is about.
bool passes(const wire::Draft& draft) {
    return draft.kind == wire::Kind::item || draft.kind == wire::Kind::credit || is_completion(draft);
}

}  // namespace

/// Keeps a frame until there is room: a large one in the arena already, so that no memory is known now and not later.
Status Link::defer(const wire::Draft& draft, std::uint64_t bytes) {
    Waiting waiting{.frame = {},
                    .box = {},
                    .payloads = {draft.payloads.begin(), draft.payloads.end()},
                    .is_call = draft.kind == wire::Kind::call,
                    .passes = passes(draft),
                    .id = draft.id};
    if (bytes > inline_bytes) {
        const auto made = box(draft, bytes);
        if (made.status != Status::ok) return made.status;
        waiting.box = made.handle;
    } else if (backlog_size_ + bytes > backlog_bytes && !is_completion(draft)) {
        count(counters_.full);
        return Status::full;
    } else {
        waiting.frame.resize(bytes);
        wire::write(draft, waiting.frame.data());
        backlog_size_ += bytes;
    }
    passing_ += waiting.passes;
    backlog_.push_back(std::move(waiting));
    return Status::ok;
}

Status Link::submit(const wire::Draft& draft) {
    if (state_ != Status::ok) return state_;
    if (!backlog_.empty()) pump();
    const std::uint64_t bytes = wire::size(draft);
    if (bytes > wire::max_bytes) return Status::too_large;
    if (!hold(draft.payloads)) return Status::stale;
    const bool is_call = draft.kind == wire::Kind::call;
    Status sent = Status::full;
    // Before the other side has attached, its half of the positions means nothing.
    const bool may_go = attached() && backlog_.empty() && !(is_call && in_flight_ >= most_in_flight());
    if (may_go) sent = send(draft, bytes, call_reserve_bytes());
    if (sent == Status::ok && is_call) {
        ++in_flight_;
    } else if (sent == Status::full) {
        sent = defer(draft, bytes);
    }
    if (sent != Status::ok) {
        drop(draft.payloads);
        if (sent == Status::corrupt) fail(sent);
        return sent;
    }
    if (is_call && (draft.flags & wire::frame_streams) != 0) credits_[draft.id] = draft.number;
    if (draft.kind == wire::Kind::credit) {
        if (const auto stream = credits_.find(draft.id); stream != credits_.end()) stream->second += draft.number;
    }
    if (is_call) {
        count(counters_.calls);
        if (calls_++ % 16 == 0 && !timed_since_) {
            timed_id_ = draft.id;
            timed_since_ = doorbell::Clock::now();
        }
    } else if (draft.kind == wire::Kind::post) {
        count(counters_.posts);
    }
    return Status::ok;
}

/// Gives back what a frame that will not be sent holds, and leaves nothing of it.
void Link::end(Waiting& waiting) {
    if (waiting.box.bytes) (void)arena_.release(waiting.box.block, waiting.box.generation);
    drop(waiting.payloads);
    backlog_size_ -= waiting.frame.size();
    passing_ -= waiting.passes;
    waiting = {};
}

bool Link::cancel(std::uint64_t id, const std::function<void(const wire::Draft&)>& withdrawn) {
    const auto is_it = [id](const Waiting& waiting) { return waiting.is_call && waiting.id == id; };
    // From both ends: calls are given up in the order in which they were made, or in the reverse.
    for (std::size_t first = 0, last = backlog_.size(); first < last; ++first) {
        Waiting* const found = is_it(backlog_[first])    ? &backlog_[first]
                               : is_it(backlog_[--last]) ? &backlog_[last]
                                                         : nullptr;
        if (found == nullptr) continue;
        wire::Draft draft;
        const std::byte* bytes = found->box.bytes ? arena_.at(found->box) : found->frame.data();
        const std::uint64_t size = found->box.bytes ? found->box.bytes : found->frame.size();
        std::vector<std::uint64_t> copy((size + 7) / 8);
        std::memcpy(copy.data(), bytes, size);
        if (wire::read(std::as_bytes(std::span(copy)).first(size), draft) == Status::ok) withdrawn(draft);
        end(*found);
        credits_.erase(id);
        return true;
    }
    cancels_.push_back({wire::Tag::integer, wire::DType::none, 0, 0, id});
    return false;
}

/// One frame for all, and one at a time, so that the room which calls leave for it is enough.
void Link::send_cancels() {
    if (state_ != Status::ok || !attached() || !out_.look() || out_.consumed() < cancelled_until_) return;
    const wire::Draft draft{.kind = wire::Kind::cancel, .cells = cancels_};
    const std::uint64_t bytes = wire::size(draft);
    const Status sent = ring::record_bytes(bytes) <= cancel_bytes ? send(draft, bytes, reserve_bytes())
                                                                  : send_indirect(draft, bytes, reserve_bytes());
    if (sent != Status::ok) return;
    cancels_.clear();
    cancelled_until_ = out_.written();
}

Status Link::answer(const wire::Draft& draft) {
    if (state_ != Status::ok) return state_;
    const std::uint64_t bytes = wire::size(draft);
    const bool small = ring::record_bytes(bytes) <= completion_bytes;
    // The end of a stream stays behind its items.
    const bool behind = passing_ > 0 && std::any_of(backlog_.begin(), backlog_.end(), [&](const Waiting& waiting) {
                            return waiting.passes && waiting.id == draft.id;
                        });
    Status sent = bytes > wire::max_bytes ? Status::too_large : hold(draft.payloads) ? Status::ok : Status::stale;
    if (sent == Status::ok) {
        sent = behind ? defer(draft, bytes) : send(draft, bytes, small ? 0 : reserve_bytes());
        if (sent == Status::full && !small) sent = send_indirect(draft, bytes, 0);
        if (sent != Status::ok) drop(draft.payloads);
    }
    Status told = sent;
    if (sent != Status::ok && sent != Status::full && sent != Status::corrupt) {
        const wire::Draft apology{.kind = wire::Kind::error, .status = sent, .target = draft.target, .id = draft.id};
        told = behind ? defer(apology, wire::size(apology)) : send(apology, wire::size(apology), 0);
    }
    if (told != Status::ok) {
        // No room for a completion: the other side has more calls in flight than it may.
        fail(Status::corrupt);
        return Status::corrupt;
    }
    count(draft.kind == wire::Kind::error || sent != Status::ok ? counters_.errors : counters_.replies);
    return sent;
}

/// From the shared words alone, as they are only the other side's loss when they lie.
void Link::end_transits() {
    std::lock_guard lock(transit_mutex_);
    const std::uint64_t word =
        segment_.attachments(ends_.self).from[ends_.other].load(std::memory_order_acquire);  // pairs with "attach"
    if (word != layout::attach_word(ends_.other_generation, ends_.self_generation)) return;
    const std::uint64_t consumed = out_positions_.head.load(std::memory_order_acquire);
    while (!transit_.empty() && transit_.front().until <= consumed) {
        (void)arena_.release(transit_.front().block.block, transit_.front().block.generation);
        transit_.pop_front();
    }
    transits_.store(transit_.size(), std::memory_order_relaxed);
}

void Link::pump() {
    if (!cancels_.empty()) send_cancels();
    const bool has_transits = transits_.load(std::memory_order_relaxed) != 0;
    if (!has_transits && backlog_.empty() && !starved_) return;
    if (!attached()) return;
    if (!out_.look()) return fail(Status::corrupt);
    if (has_transits) end_transits();
    // What a call in flight may wait for passes the calls that wait for its end.
    bool calls_wait = false;
    for (std::size_t i = 0; i < backlog_.size() && !(calls_wait && passing_ == 0); ++i) {
        Waiting& waiting = backlog_[i];
        if (!waiting.box.bytes && waiting.frame.empty()) continue;  // was withdrawn, or has passed
        calls_wait = calls_wait || (waiting.is_call && in_flight_ >= most_in_flight());
        if (calls_wait && !waiting.passes) continue;
        Status sent;
        if (waiting.box.bytes) {
            sent = send_box(waiting.box, waiting.payloads, call_reserve_bytes());
        } else {
            wire::Draft draft;
            if (wire::read(waiting.frame, draft) != Status::ok) return fail(Status::corrupt);
            sent = send(draft, waiting.frame.size(), call_reserve_bytes());
        }
        if (sent == Status::corrupt) fail(sent);
        if (sent != Status::ok) break;
        in_flight_ += waiting.is_call;
        passing_ -= waiting.passes;
        backlog_size_ -= waiting.frame.size();
        waiting = {};
    }
    while (!backlog_.empty() && !backlog_.front().box.bytes && backlog_.front().frame.empty()) backlog_.pop_front();
    if (backlog_.empty() && cancels_.empty() && std::exchange(starved_, false))
        out_positions_.starved.store(0, std::memory_order_relaxed);
}

void Link::starve() {
    if ((backlog_.empty() && cancels_.empty()) || std::exchange(starved_, true)) return;
    doorbell::starve(out_positions_.starved);
}

void Link::publish() {
    if (!cancels_.empty()) send_cancels();
    // In this order: who sees new calls finds the room that their answers count on.
    const bool gave_room = in_.retire();
    const bool shown = out_.publish();
    if (!has_bell() || (!gave_room && !shown)) return;
    auto& other = segment_.peer(ends_.other);
    if (shown ? doorbell::must_ring(other.asleep) : doorbell::must_ring_for_room(other.asleep, in_positions_.starved))
        ring();
}

void Link::set_bell(Fd bell) {
    bell_ = std::move(bell);
    if (has_bell() && doorbell::must_ring(segment_.peer(ends_.other).asleep)) ring();
}

void Link::ring() {
    doorbell::ring(bell_.get());
    count(counters_.wakes);
}

bool Link::ready() {
    if (state_ != Status::ok) return true;  // to be ended
    if (!attached()) return false;
    if (in_.ready()) return true;
    const bool may_cancel = !cancels_.empty() && out_.look() && out_.consumed() >= cancelled_until_;
    if (may_cancel && out_.free() > call_reserve_bytes()) return true;
    if (backlog_.empty()) return false;
    const bool may_go = !backlog_.front().is_call || in_flight_ < most_in_flight() || passing_ > 0;
    return may_go && (!out_.look() || out_.free() > call_reserve_bytes() + 2 * inline_bytes);
}

Link::Received Link::receive(std::span<std::byte> room) {
    if (state_ != Status::ok) return {state_, {}, 0};
    if (!attached()) return {Status::empty, {}, 0};
    const auto broken = [this] {
        fail(Status::corrupt);
        return Received{Status::corrupt, {}, 0};
    };
    const auto record = in_.peek();
    if (record.status == Status::empty) return {Status::empty, {}, 0};
    if (record.status != Status::ok) return broken();

    std::uint64_t bytes = record.bytes.size();
    if (record.kind == layout::RecordKind::frame) {
        if (bytes > room.size()) return {Status::too_large, {}, bytes};
        std::memcpy(room.data(), record.bytes.data(), bytes);
    } else {
        Handle block;
        if (bytes != sizeof block) return broken();
        std::memcpy(&block, record.bytes.data(), sizeof block);
        bytes = block.bytes;
        if (bytes > std::min(wire::max_bytes, arena_.memory().extent(block.block).bytes)) return broken();
        if (bytes > room.size()) return {Status::too_large, {}, bytes};
        if (arena_.lease(block) != Status::ok) return broken();
        std::memcpy(room.data(), arena_.at(block), bytes);
        (void)arena_.release(block.block, block.generation);
    }

    Received received{Status::ok, {}, bytes};
    if (wire::read(room.first(bytes), received.frame) != Status::ok || !settle(received.frame)) return broken();
    const auto& payloads = received.frame.payloads;
    for (std::size_t i = 0; i < payloads.size(); ++i) {
        if (arena_.lease(payloads[i]) == Status::ok) continue;
        drop(std::span(payloads).first(i));
        return broken();
    }
    in_.release();
    count(counters_.frames_received);
    count(counters_.bytes_received, bytes);
    return received;
}

/// Counts a completion, or items. False when there was no call for it, or no room for them.
bool Link::settle(const wire::Draft& frame) {
    if (frame.kind == wire::Kind::item) {
        const auto stream = credits_.find(frame.id);
        if (stream == credits_.end() || frame.number == 0 || frame.number > stream->second) return false;
        stream->second -= frame.number;
        return true;
    }
    if (frame.kind != wire::Kind::reply && frame.kind != wire::Kind::error) return true;
    if (in_flight_ == 0) return false;
    --in_flight_;
    if (!credits_.empty()) credits_.erase(frame.id);
    if (timed_since_ && frame.id == timed_id_) {
        const auto took = doorbell::Clock::now() - *timed_since_;
        count(counters_.latencies[latency_bucket(static_cast<std::uint64_t>(took.count()))]);
        timed_since_.reset();
    }
    return true;
}

}  // namespace isthmus
