// Frames in: which call is to run when, what is cancelled, and what becomes of a link that is lost.
#include "dispatcher.hpp"

#include <sched.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace isthmus::python {

namespace {

constexpr std::size_t most_batch_bytes = 1 << 20;  // a single frame may be larger
constexpr std::size_t room_at_least = most_batch_bytes + 2 * Link::inline_bytes;
constexpr std::size_t room_to_keep = 8 << 20;  // after a larger frame the room shrinks again
constexpr std::size_t most_parked = 65536;
constexpr std::size_t most_parked_of_one = 4096;  // all calls that one may have in flight; posts have no such bound
constexpr std::uint64_t least_patience = 50'000;  // ns
constexpr std::size_t most_parked_bytes = 64 << 20;

std::size_t up_to_8(std::size_t bytes) { return (bytes + 7) & ~std::size_t{7}; }

}  // namespace

/// Receives calls up to the bounds of a batch; what an earlier one has left over takes its turn among them. False when there was
/// nothing.
bool Dispatcher::gather() {
    if (has_batch()) park_the_rest();
    batch_.clear();
    next_ = used_ = 0;
    if (room_bytes_ == 0 || room_bytes_ > room_to_keep) make_room(room_at_least);
    bool any = false;
    if (was_slow_ || !parked_.empty()) {
        // Calls that are quick again are received more slowly than performed, until none is ahead of its turn.
        any = receive_aside(was_slow_ ? most_parked : most_calls / 2);
        unpark();
    }
    while (parked_.empty() && batch_.size() < at_most_ && used_ < most_batch_bytes) {
        const std::span<std::byte> room{room_.get() + used_, room_bytes_ - used_};
        const Bus::Received received = bus_.receive(room);
        if (received.status == Status::too_large) {
            if (used_ != 0) break;
            make_room(up_to_8(received.bytes));
            continue;
        }
        if (received.status != Status::ok) break;
        any = true;
        accept(received, room.first(received.bytes), true);
    }
    if (parked_.size() >= most_calls || saw_cancel_) await_cancels();
    if (!batch_.empty()) {
        auto& counters = bus_.counters();
        count(counters.batches);
        count(counters.batch_sizes[std::bit_width(batch_.size()) - 1]);
    }
    return any || !batch_.empty();
}

void Dispatcher::make_room(std::size_t bytes) {
    room_ = std::make_shared_for_overwrite<std::byte[]>(bytes);
    room_bytes_ = bytes;
}

/// Cancels that had no room in the ring while this peer was busy come now, before what they cancel is begun.
void Dispatcher::await_cancels() {
    // What the wait costs is a small part of what the batch before took.
    const std::uint64_t patience = std::min(std::exchange(took_, 0) / 20, std::uint64_t{20'000'000});  // ns
    saw_cancel_ = false;
    if (patience < least_patience) return;
    bus_.flush();
    for (std::uint64_t until = now_ns() + patience; now_ns() < until && may_park();) {
        if (receive_aside(most_parked)) {
            bus_.flush();
            until = now_ns() + patience;
        } else {
            ::sched_yield();
        }
    }
}

/// Moves what was received ahead to the batch, of each link in turn.
void Dispatcher::unpark() {
    while (!parked_.empty() && batch_.size() < at_most_) {
        Call call = take_parked();
        if (call.link != nullptr) batch_.push_back(std::move(call));
    }
}

/// What the last take has left of its batch waits again, each behind what its link had sent before, and others may go first.
void Dispatcher::park_the_rest() {
    for (; has_batch(); batch_.pop_back()) {
        Call& call = batch_.back();
        if (call.link == nullptr) continue;
        if (call.bytes == nullptr) call.bytes = room_;
        parked_bytes_ += bytes_of(call);
        Link* const link = call.link;
        parked_.push_front(link, std::move(call));
    }
    room_.reset();
    room_bytes_ = 0;
}

Dispatcher::Call Dispatcher::take_parked() {
    Call call = parked_.take();
    parked_bytes_ -= bytes_of(call);
    return call;
}

/// Whether what waits here already leaves room for more to be received ahead of its turn.
bool Dispatcher::may_park() const { return parked_.size() < most_parked && parked_bytes_ < most_parked_bytes; }

/// Receives behind what waits already: at most so many frames and what there is room for, or `all`, as what somebody waits for may
/// be behind the rest. False when there was nothing.
bool Dispatcher::receive_aside(std::size_t most) {
    std::size_t seen = 0;
    crowded_ = 0;
    std::unique_ptr<std::byte[]> larger;
    std::span<std::byte> room{room_.get() + used_, room_bytes_ - used_};
    while (most == all || (seen < most && may_park())) {
        const Bus::Received received = bus_.receive(room, most == all ? 0 : crowded_);
        if (received.status == Status::too_large) {
            larger = std::make_unique_for_overwrite<std::byte[]>(up_to_8(received.bytes));
            room = {larger.get(), up_to_8(received.bytes)};
            continue;
        }
        if (received.status != Status::ok) break;
        ++seen;
        accept(received, room.first(received.bytes), false);
    }
    return seen != 0;
}

void Dispatcher::accept(const Bus::Received& received, std::span<const std::byte> bytes, bool to_batch) {
    const wire::Draft& frame = received.frame;
    memory_->objects().pin_all(frame);
    switch (frame.kind) {
        case wire::Kind::call:
        case wire::Kind::post:
            if (!to_batch) return park(received, bytes);
            batch_.push_back({received.link, frame, nullptr, wire::name_only, false, nullptr});
            used_ += up_to_8(bytes.size());
            return;
        case wire::Kind::reply:
        case wire::Kind::error:
        case wire::Kind::item: return calls_.settle(bus_, *received.link, frame, bytes, *memory_);
        case wire::Kind::cancel: cancel(*received.link, frame.id); break;
        case wire::Kind::credit: grant(*received.link, frame.id, frame.number); break;
        default: break;
    }
    discard(bus_, *memory_, frame);
}

void Dispatcher::park(const Bus::Received& received, std::span<const std::byte> bytes) {
    auto own = std::make_shared_for_overwrite<std::byte[]>(up_to_8(bytes.size()));
    std::memcpy(own.get(), bytes.data(), bytes.size());
    const auto move = [&]<class T>(std::span<const T>& view) {
        const auto* at = reinterpret_cast<const std::byte*>(view.data());
        if (!view.empty()) view = {reinterpret_cast<const T*>(own.get() + (at - bytes.data())), view.size()};
    };
    wire::Draft frame = received.frame;
    move(frame.cells);
    move(frame.heap);
    move(frame.payloads);
    if (!frame.name.empty()) {
        const auto* at = reinterpret_cast<const std::byte*>(frame.name.data());
        frame.name = {reinterpret_cast<const char*>(own.get() + (at - bytes.data())), frame.name.size()};
    }
    Call call{received.link, frame, nullptr, wire::name_only, false, std::move(own)};
    parked_bytes_ += bytes_of(call);
    if (parked_.push_back(received.link, std::move(call)) >= most_parked_of_one)
        crowded_ |= std::uint64_t{1} << received.link->ends().other;
}

void Dispatcher::cancel(const Link& link, std::uint64_t id) {
    const auto is_it = [&](const Call& call) { return call.link == &link && call.frame.id == id; };
    saw_cancel_ = true;
    if (deferred_.cancel(link, id)) return;
    for (std::size_t i = next_; i < batch_.size(); ++i) {
        if (is_it(batch_[i])) batch_[i].cancelled = true;
    }
    parked_.for_each([&](Call& call) {
        if (is_it(call)) call.cancelled = true;
    });
    for (Call* call = serving_; call != nullptr; call = call->outer) {
        if (!is_it(*call)) continue;
        call->cancelled = true;
        if (call->info != nullptr) call_info(call->info).cancelled.store(true, std::memory_order_relaxed);
    }
    for (const auto& pump : pumps_) {
        if (!is_it(pump->call) || pump->over) continue;
        pump->call.cancelled = pump->closing = true;
        if (pump->call.info != nullptr) call_info(pump->call.info).cancelled.store(true, std::memory_order_relaxed);
    }
}

void Dispatcher::grant(const Link& link, std::uint64_t id, std::uint32_t count) {
    for (const auto& pump : pumps_) {
        if (pump->call.link != &link || pump->call.frame.id != id) continue;
        pump->credit += count;
        return;
    }
    (void)deferred_.grant(link, id, count);
}

void Dispatcher::find_target(Call& call) {
    if (call.target != nullptr) return;
    const std::uint32_t target = call.frame.target;
    if (target < targets_.size() && targets_[target] != nullptr) {
        call.target = targets_[target];
        call.index = target;
    } else if (target == wire::on_object || target == wire::operation) {
        call.target = &objects_;
        call.index = target;
    } else if (exports_ != nullptr) {
        call.target = exports_->find(target, call.frame.name, call.index);
        if (call.target == nullptr) return;
        if (call.index >= targets_.size()) targets_.resize(call.index + 1);
        targets_[call.index] = call.target;
    }
}

void Dispatcher::find_parked_targets() {
    parked_.for_each([this](Call& call) {
        if (call.link != nullptr) find_target(call);
    });
}

/// Answers what is not exported, cancelled or too late. True when that was so.
bool Dispatcher::refuse_if_late(Call& call) {
    if (call.target == nullptr) {
        refuse(call, Status::not_exported);
    } else if (call.cancelled) {
        refuse(call, Status::cancelled);
    } else if (call.frame.deadline != 0 && call.frame.deadline < now_ns()) {
        refuse(call, Status::timed_out);
    } else {
        return false;
    }
    return true;
}

void Dispatcher::refuse_what_cannot_run() {
    for (std::size_t i = next_; i < batch_.size(); ++i) {
        find_target(batch_[i]);
        if (batch_[i].link != nullptr) (void)refuse_if_late(batch_[i]);
    }
    while (has_batch() && batch_[next_].link == nullptr) ++next_;
}

void Dispatcher::forget(const Link& link) {
    const auto drop = [&](Call& call) {
        if (call.link != &link) return;
        discard(bus_, *memory_, call.frame);
        call.link = nullptr;
    };
    for (std::size_t i = next_; i < batch_.size(); ++i) drop(batch_[i]);
    parked_.for_each(drop);
    for (Call* call = serving_; call != nullptr; call = call->outer) {
        if (call->link != &link) continue;
        call->link = nullptr;
        call->cancelled = true;
        if (call->info != nullptr) call_info(call->info).cancelled.store(true, std::memory_order_relaxed);
    }
    for (const auto& pump : pumps_) {
        if (pump->call.link != &link) continue;
        pump->call.link = nullptr;
        pump->closing = true;
    }
    for (Late& late : late_) {
        if (late.link == &link) late.link = nullptr;
    }
    deferred_.forget(link, *memory_);
}

}  // namespace isthmus::python
