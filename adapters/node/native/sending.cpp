// What goes out: calls, their answers, and waiting for what comes back.
#include <algorithm>

#include "function.hpp"

namespace isthmus::node {

using namespace std::chrono_literals;

namespace {

// Few calls in flight: each is shown at once. Many: the other side has work, and one store and one fence serve several.
constexpr std::int32_t few_in_flight = 16;
constexpr std::uint32_t flush_every = 32;

constexpr std::uint64_t id_of(std::uint32_t slot, std::uint32_t uses) {
    return std::uint64_t{uses} << slot_bits | slot;
}

}  // namespace

std::uint32_t Connection::target(const Name& name, const Link* link) const {
    for (const auto& [known, target] : name.targets) {
        if (known == link) return target;
    }
    return wire::name_only;
}

bool Connection::is_staged() const {
    return std::size_t{index(Word::firstCell)} + index(Word::cells) <= cells_.size() &&
           std::size_t{index(Word::firstHeap)} + index(Word::heapBytes) <= heap_.size();
}

/// What lies staged from firstCell, firstHeap and firstPayload on.
wire::Draft Connection::staged_draft() {
    payloads_.clear();
    for (std::size_t i = index(Word::firstPayload); i < staged_.size(); ++i) payloads_.push_back(staged_[i].handle);
    wire::Draft draft;
    draft.kind = static_cast<wire::Kind>(word(Word::kind));
    draft.flags = static_cast<std::uint16_t>(word(Word::flags));
    draft.number = index(Word::number);
    draft.cells = cells_.subspan(index(Word::firstCell), index(Word::cells));
    draft.heap = heap_.subspan(index(Word::firstHeap), index(Word::heapBytes));
    draft.payloads = payloads_;
    return draft;
}

/// The message was sent, or will not be: its payloads have uses of their own.
void Connection::forget_staged() {
    const std::size_t first = index(Word::firstPayload);
    for (std::size_t i = first; i < staged_.size(); ++i) {
        if (staged_[i].own && bus_) (void)bus_->arena().release(staged_[i].handle.block, staged_[i].handle.generation);
    }
    staged_.resize(std::min(staged_.size(), first));
}

/// Whom the staged call is for; null when nobody is there.
Link* Connection::callee() {
    if (word(Word::peer) != any_peer) return bus_->link_to(index(Word::peer), index(Word::peerGeneration));
    return word(Word::name) < 0
               ? bus_->service()
               : bus_->provider(names_[index(Word::name)].route, static_cast<Bus::Sticky>(word(Word::sticky)));
}

/// The link to the peer whose call is being answered, as long as it stands.
Link* Connection::peer_link() const {
    for (const auto& link : bus_->links()) {
        const auto& ends = link->ends();
        if (ends.other == index(Word::peer) && ends.other_generation == index(Word::peerGeneration)) return link.get();
    }
    return nullptr;
}

/// Sends the staged call or post, and forgets the payloads.
Status Connection::send() {
    Status status = bus_ ? Status::ok : Status::closed;
    if (!is_staged() || word(Word::name) >= static_cast<std::int32_t>(names_.size()) ||
        index(Word::slot) >> slot_bits != 0) {
        status = Status::corrupt;
    }
    Link* link = status == Status::ok ? callee() : nullptr;
    if (status == Status::ok && link == nullptr) status = Status::lost;
    if (status == Status::ok) {
        wire::Draft draft = staged_draft();
        const bool is_call = draft.kind == wire::Kind::call;
        const std::uint32_t slot = index(Word::slot);
        if (is_call && slot >= calls_.size()) calls_.resize(std::max<std::size_t>(64, 2 * std::size_t{slot}));
        const std::uint32_t uses = is_call ? calls_[slot].uses + 1 : 0;
        draft.id = is_call ? id_of(slot, uses) : 0;
        draft.activity = wide(Word::activityLow, Word::activityHigh);
        if (word(Word::name) < 0) {
            draft.target = index(Word::target);
        } else {
            const Name& name = names_[index(Word::name)];
            draft.target = target(name, link);
            if (draft.target == wire::name_only) draft.name = name.route.name;
        }
        if (real(Double::timeout) > 0)
            draft.deadline = static_cast<std::uint64_t>(deadline().time_since_epoch().count());
        status = bus_->submit(*link, draft);
        if (status == Status::ok && is_call) {
            calls_[slot] = {link, uses, word(Word::name), false};
            // What this call's own nested calls carry, and who is waited for.
            const auto activity = draft.activity != 0 ? draft.activity : wire::activity_of(bus_->slot(), draft.id);
            put_wide(Word::activityLow, Word::activityHigh, activity);
            word(Word::peer) = static_cast<std::int32_t>(link->ends().other);
            word(Word::peerGeneration) = static_cast<std::int32_t>(link->ends().other_generation);
        }
        ++unflushed_;
    }
    forget_staged();
    outcome(status);
    return status;
}

void Connection::submit(napi_env) {  // the isolate's thread; no lock
    if (send() != Status::ok) return;
    const bool later = wake_ && wake_->flushes() && word(Word::inFlight) >= few_in_flight && unflushed_ < flush_every;
    if (!later) flush();
    if (wake_) wake_->submitted();
}

/// Sends the staged reply, error or items to the peer that has called.
void Connection::answer(napi_env) {  // the isolate's thread; no lock
    Status status = !bus_ ? Status::closed : !is_staged() ? Status::corrupt : Status::ok;
    Link* link = status == Status::ok ? peer_link() : nullptr;
    if (status == Status::ok && link == nullptr) status = Status::lost;
    if (status == Status::ok) {
        wire::Draft draft = staged_draft();
        draft.status = static_cast<Status>(word(Word::answer));
        draft.target = index(Word::target);
        draft.id = wide(Word::idLow, Word::idHigh);
        status = draft.kind == wire::Kind::item ? bus_->submit(*link, draft) : bus_->answer(*link, draft);
        ++unflushed_;
    }
    forget_staged();
    outcome(status);
    if (link == nullptr) return;
    if (!entered_ || unflushed_ >= flush_every) flush();
    if (wake_) wake_->submitted();
}

napi_value Connection::call_and_wait(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock; blocks
    Connection& self = of(env, info);
    return guarded(env, [&]() -> napi_value { return self.send() == Status::ok ? self.await(env) : nullptr; });
}

napi_value Connection::wait(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock; blocks
    Connection& self = of(env, info);
    return guarded(env, [&] { return self.await(env); });
}

/// Until something has arrived, which is collected, or the time is out (timed_out), or the isolate is terminated.
napi_value Connection::await(napi_env env) {
    word(Word::frames) = 0;
    outcome(bus_ ? Status::ok : Status::closed);
    if (!bus_) return nullptr;
    const bool limited = real(Double::timeout) > 0;
    const auto until = limited ? deadline() : doorbell::Deadline::max();
    flush();  // also what has waited for the host to attach, or for room
    if (!bus_->spin(until)) {
        for (;;) {
            attend();
            if (!lost_.empty() || !gone_.empty()) break;
            const auto now = doorbell::Clock::now();
            if (limited && now >= until) {
                outcome(Status::timed_out);
                break;
            }
            if (bus_->wait(std::min(until, now + 20ms)) || is_terminated(env)) break;
        }
        if (wake_) wake_->waited();
    }
    return collect(env);
}

doorbell::Deadline Connection::deadline() {
    const double milliseconds = std::min(real(Double::timeout), 1e12);
    return doorbell::Clock::now() + std::chrono::nanoseconds(static_cast<std::int64_t>(milliseconds * 1e6));
}

/// Tells the callee, with the next flush, that a call is no longer wanted. With `number` nobody waits for what still comes
/// either, and the status is cancelled when nothing will, since the call had not been sent.
void Connection::cancel(napi_env) {  // the isolate's thread; no lock
    outcome(Status::ok);
    const std::uint32_t slot = index(Word::slot);
    if (!bus_ || slot >= calls_.size() || calls_[slot].link == nullptr) return;
    Call& call = calls_[slot];
    const std::uint64_t id = id_of(slot, call.uses);
    call.abandoned = word(Word::number) != 0;
    if (!call.abandoned) {
        (void)bus_->submit(*call.link, {.kind = wire::Kind::cancel, .id = id});
    } else if (bus_->give_up(*call.link, id)) {
        call.link = nullptr;
        outcome(Status::cancelled);
    }
    if (wake_) wake_->submitted();
}

/// Lets the callee send `number` more items of a stream.
void Connection::credit(napi_env) {  // the isolate's thread; no lock
    const std::uint32_t slot = index(Word::slot);
    if (!bus_ || slot >= calls_.size() || calls_[slot].link == nullptr) return;
    wire::Draft draft;
    draft.kind = wire::Kind::credit;
    draft.id = id_of(slot, calls_[slot].uses);
    draft.number = index(Word::number);
    (void)bus_->submit(*calls_[slot].link, draft);
    if (!entered_) flush();
}

}  // namespace isthmus::node
