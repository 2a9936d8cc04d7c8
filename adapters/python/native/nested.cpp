// Serving while an export waits for a call of its own, on the dispatcher's thread.
#include <algorithm>

#include "dispatcher.hpp"
#include "request.hpp"

namespace isthmus::python {

/// Whether a call may be performed although the thread waits: when it is part of what is waited for, or when the peer that is
/// waited for waits for it.
bool Dispatcher::may_interrupt(const Call& call) const {
    if (call.link == nullptr) return false;
    if (call.target != nullptr && call.target->deferred.load(std::memory_order_relaxed)) return true;
    for (const Blocked* blocked = blocked_; blocked != nullptr; blocked = blocked->outer) {
        if (call.frame.activity != 0 && call.frame.activity == blocked->activity) return true;
    }
    return (call.frame.flags & wire::frame_blocks) != 0 && call.link == blocked_->call->link;
}

bool Dispatcher::has_interrupting() const {
    const auto may = [this](const Call& call) { return may_interrupt(call); };
    return std::any_of(batch_.begin() + static_cast<std::ptrdiff_t>(next_), batch_.end(), may) || parked_.any_of(may);
}

/// All that may be performed now, in the order in which it came. GIL held.
void Dispatcher::serve_nested() {
    const auto take = [this](Call& waiting) {
        Link* const link = std::exchange(waiting.link, nullptr);
        Call call = std::move(waiting);
        call.link = link;
        find_target(call);
        if (refuse_if_late(call)) return;
        Scratch scratch;
        perform(call, scratch);
    };
    // Performing one may nest: what it takes is gone from both, and what it adds is behind.
    for (std::size_t i = next_; i < batch_.size(); ++i) {
        if (may_interrupt(batch_[i])) take(batch_[i]);
    }
    parked_.for_each([&](Call& call) {
        if (may_interrupt(call)) take(call);
    });
    parked_.drop_first([this](const Call& call) {
        if (call.link != nullptr) return false;
        parked_bytes_ -= bytes_of(call);
        return true;
    });
    if (handing_over_) hand_over();
    if (!pumps_.empty()) run_pumps();
}

Awaited Dispatcher::await(Pending& call, std::uint64_t until) {
    constexpr std::uint64_t slice = 100'000'000;  // ns, after which signals are looked at
    const std::uint64_t activity = call.activity != 0 ? call.activity : wire::activity_of(bus_.slot(), call.id);
    Blocked here{activity, &call, blocked_};
    blocked_ = &here;
    if (handing_over_) hand_over();
    Awaited waited;
    for (;;) {
        waited = Awaited::settled;
        if (::sem_trywait(&call.done) == 0) break;
        waited = Awaited::timed_out;
        const std::uint64_t now = now_ns();
        if (until != 0 && now >= until) break;
        waited = Awaited::interrupted;
        if (PyErr_CheckSignals() < 0) break;
        give_gil();
        const std::uint64_t wake = until != 0 ? std::min(until, now + slice) : now + slice;
        for (;;) {
            sweep();
            const bool received = receive_aside(all);
            if (bus_.has_free()) memory_->objects().free(bus_.take_free());
            find_parked_targets();
            answer_late();
            bus_.flush();
            int posted = 0;
            ::sem_getvalue(&call.done, &posted);
            if (posted > 0 || has_interrupting() || calls_.has_events() || deferred_.has_news() || has_pumps()) break;
            if (now_ns() >= wake || bus_.closed()) break;
            if (!received) idle(wake);
        }
        take_gil();
        catch_up();
        deliver();
        serve_nested();
    }
    blocked_ = here.outer;
    return waited;
}

void Dispatcher::look() {
    // Whoever asks in a loop asks often.
    bus_.attend(lost_);
    (void)receive_aside(all);
    bus_.flush();
}

}  // namespace isthmus::python
