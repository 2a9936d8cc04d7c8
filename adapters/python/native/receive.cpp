// Frames in: which call is to run when, what is cancelled, and what becomes of a link that is lost.
#include "dispatcher.hpp"

#include <sched.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace isthmus::python {

namespace {

constexpr std::size_t most_calls = 256;            // of a batch
constexpr std::size_t most_batch_bytes = 1 << 20;  // likewise; a single frame may be larger
constexpr std::size_t room_at_least = most_batch_bytes + 2 * Link::inline_bytes;
constexpr std::size_t room_to_keep = 8 << 20;  // after a larger frame the room shrinks again
constexpr std::size_t most_parked = 65536;
constexpr std::uint64_t least_patience = 50'000;  // ns
constexpr std::size_t most_parked_bytes = 64 << 20;

std::size_t up_to_8(std::size_t bytes) { return (bytes + 7) & ~std::size_t{7}; }

std::size_t bytes_of(const wire::Draft& frame) { return frame.heap.size() + frame.cells.size_bytes(); }

}  // namespace

/// Receives calls up to the bounds of a batch, behind those that an earlier take has left over. False when there was nothing.
bool Dispatcher::gather() {
    if (!has_batch()) {
        batch_.clear();
        next_ = used_ = 0;
        if (room_bytes_ > room_to_keep) room_bytes_ = 0;
    }
    if (room_bytes_ == 0) {
        room_bytes_ = room_at_least;
        room_ = std::make_unique_for_overwrite<std::byte[]>(room_bytes_);
    }
    const std::size_t before = batch_.size();
    if (!parked_.empty()) unpark();
    bool any = batch_.size() > before;
    for (;;) {
        const bool to_batch = parked_.empty() && batch_.size() < most_calls && used_ < most_batch_bytes;
        const bool ahead = (was_slow_ || !parked_.empty()) && may_park();
        if (!to_batch && !ahead) break;
        const std::span<std::byte> room{room_.get() + used_, room_bytes_ - used_};
        const Bus::Received received = bus_.receive(room);
        if (received.status == Status::too_large) {
            if (used_ != 0) break;
            room_bytes_ = up_to_8(received.bytes);
            room_ = std::make_unique_for_overwrite<std::byte[]>(room_bytes_);
            continue;
        }
        if (received.status != Status::ok) break;
        any = true;
        accept(received, room.first(received.bytes), to_batch);
    }
    if (batch_.size() >= most_calls || saw_cancel_) await_cancels();
    if (batch_.size() > before) {
        auto& counters = bus_.counters();
        count(counters.batches);
        count(counters.batch_sizes[std::bit_width(batch_.size() - before) - 1]);
    }
    return any;
}

/// Cancels that had no room in the ring while this peer was busy come now, before what they cancel is begun.
void Dispatcher::await_cancels() {
    // What the wait costs is a small part of what the batch before took.
    const std::uint64_t patience = std::min(std::exchange(took_, 0) / 20, std::uint64_t{20'000'000});  // ns
    saw_cancel_ = false;
    if (patience < least_patience) return;
    bus_.flush();
    for (std::uint64_t until = now_ns() + patience; now_ns() < until && may_park();) {
        if (receive_aside(false)) {
            bus_.flush();
            until = now_ns() + patience;
        } else {
            ::sched_yield();
        }
    }
}

/// Moves what was received ahead to the batch, each link its share.
void Dispatcher::unpark() {
    constexpr std::size_t looked_at = 4096;
    const std::size_t links = bus_.links().size();
    const std::size_t share = links > 1 ? std::max<std::size_t>(most_calls / links, 1) : most_calls;
    std::size_t taken[layout::max_peers] = {};
    std::vector<Call> left;
    for (std::size_t i = 0; i < looked_at && !parked_.empty() && batch_.size() < most_calls; ++i) {
        Call call = take_parked();
        if (call.link == nullptr) continue;
        (taken[call.link->ends().other]++ < share ? batch_ : left).push_back(std::move(call));
    }
    for (; !left.empty(); left.pop_back()) {
        parked_bytes_ += bytes_of(left.back().frame);
        parked_.push_front(std::move(left.back()));
    }
}

Dispatcher::Call Dispatcher::take_parked() {
    Call call = std::move(parked_.front());
    parked_.pop_front();
    parked_bytes_ -= bytes_of(call.frame);
    return call;
}

/// Whether what waits here already leaves room for more to be received ahead of its turn.
bool Dispatcher::may_park() const { return parked_.size() < most_parked && parked_bytes_ < most_parked_bytes; }

/// Receives behind what waits already: what there is room for, or `all`, as what somebody waits for may be behind the rest. False
/// when there was nothing.
bool Dispatcher::receive_aside(bool all) {
    bool any = false;
    std::unique_ptr<std::byte[]> larger;
    std::span<std::byte> room{room_.get() + used_, room_bytes_ - used_};
    while (all || may_park()) {
        const Bus::Received received = bus_.receive(room);
        if (received.status == Status::too_large) {
            larger = std::make_unique_for_overwrite<std::byte[]>(up_to_8(received.bytes));
            room = {larger.get(), up_to_8(received.bytes)};
            continue;
        }
        if (received.status != Status::ok) break;
        any = true;
        accept(received, room.first(received.bytes), false);
    }
    return any;
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
    auto own = std::make_unique_for_overwrite<std::byte[]>(up_to_8(bytes.size()));
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
    parked_.push_back({received.link, frame, nullptr, wire::name_only, false, std::move(own)});
    parked_bytes_ += bytes_of(parked_.back().frame);
}

void Dispatcher::cancel(const Link& link, std::uint64_t id) {
    const auto is_it = [&](const Call& call) { return call.link == &link && call.frame.id == id; };
    saw_cancel_ = true;
    if (deferred_.cancel(link, id)) return;
    for (std::size_t i = next_; i < batch_.size(); ++i) {
        if (is_it(batch_[i])) batch_[i].cancelled = true;
    }
    for (Call& call : parked_) {
        if (is_it(call)) call.cancelled = true;
    }
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
    for (Call& call : parked_) {
        if (call.link != nullptr) find_target(call);
    }
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
    for (Call& call : parked_) drop(call);
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
