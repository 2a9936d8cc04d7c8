#include "calls.hpp"

#include <algorithm>

namespace isthmus::python {

Pending::~Pending() {
    ::sem_destroy(&done);
    if (!memory) return;
    memory->objects().bury(sink);
    memory->objects().bury(tag);
}

// --- any thread ------------------------------------------------------------------------------------------------------

bool Calls::push(const std::shared_ptr<Pending>& call) {
    std::lock_guard lock(mutex_);
    if (ended_) return false;
    call->id = ++last_id_;
    outbox_.push_back(call);
    has_work_.store(true, std::memory_order_relaxed);
    return true;
}

/// A word to the callee; the mutex is held.
void Calls::tell(const Pending& call, std::uint32_t credit) {
    words_.push_back({call.id, call.link, credit});
    has_work_.store(true, std::memory_order_relaxed);
}

bool Calls::abandon(Pending& call) {
    std::lock_guard lock(mutex_);
    const auto queued =
        std::find_if(outbox_.begin(), outbox_.end(), [&](const auto& other) { return other.get() == &call; });
    if (queued != outbox_.end()) {
        call.out.end(*call.memory, false);
        outbox_.erase(queued);
        return true;
    }
    if (sent_.erase(call.id) == 0) return false;
    tell(call, 0);
    return true;
}

void Calls::cancel(std::uint64_t id) {
    std::shared_ptr<Pending> call;  // dropped behind the lock
    std::lock_guard lock(mutex_);
    const auto queued = std::find_if(outbox_.begin(), outbox_.end(), [id](const auto& other) { return other->id == id; });
    if (queued != outbox_.end()) {
        call = std::move(*queued);
        outbox_.erase(queued);
        call->given_up = true;
        call->out.end(*call->memory, false);
        return;
    }
    const auto at = sent_.find(id);
    if (at == sent_.end()) return;
    call = std::move(at->second);
    sent_.erase(at);
    call->given_up = true;
    tell(*call, 0);
}

void Calls::credit(std::uint64_t id, std::uint32_t count) {
    std::lock_guard lock(mutex_);
    if (const auto at = sent_.find(id); at != sent_.end() && count != 0) {
        tell(*at->second, count);
        return;
    }
    for (const auto& call : outbox_) {
        if (call->id == id) call->credit += count;
    }
}

std::vector<Pending::Frame> Calls::take_items(Pending& call) {
    std::lock_guard lock(mutex_);
    return std::exchange(call.items, {});
}

bool Calls::is_settled(Pending& call) {
    std::lock_guard lock(mutex_);
    return call.settled && call.items.empty();
}

// --- the dispatcher's thread ---------------------------------------------------------------------------------------------

void Calls::send(Bus& bus) {
    if (!has_work()) return;
    std::lock_guard lock(mutex_);
    has_work_.store(false, std::memory_order_relaxed);
    for (const Word& word : words_) {
        const auto kind = word.credit == 0 ? wire::Kind::cancel : wire::Kind::credit;
        const wire::Draft draft{.kind = kind, .id = word.id, .number = word.credit};
        (void)bus.submit(*word.link, draft);
    }
    words_.clear();
    for (auto& call : outbox_) {
        const Status status = submit(bus, *call);
        call->out.end(*call->memory, status == Status::ok);
        if (status != Status::ok) {
            finish(call, status);
            continue;
        }
        if (call->sink != nullptr && call->deadline != 0) deadlines_.emplace(call->deadline, call->id);
        sent_.emplace(call->id, std::move(call));
    }
    outbox_.clear();
}

/// The mutex is held.
Status Calls::submit(Bus& bus, Pending& call) {
    wire::Draft draft{.kind = wire::Kind::call, .target = call.target, .id = call.id, .deadline = call.deadline};
    draft.activity = call.activity;
    draft.number = call.credit;
    draft.flags = call.flags;
    call.out.fill(draft);
    Link* link;
    if (!call.name.empty()) {
        Known& known = known_[call.name];
        if (known.route.name.empty()) known.route.name = call.name;
        link = bus.provider(known.route);
        const auto at = std::find_if(known.indices.begin(), known.indices.end(),
                                     [link](const auto& each) { return each.first == link; });
        if (at != known.indices.end()) {
            draft.target = at->second;
        } else {
            draft.name = call.name;
        }
    } else {
        link = call.slot < layout::max_peers ? bus.link_to(call.slot, call.generation) : bus.service();
    }
    if (link == nullptr) return Status::lost;
    call.link = link;
    return bus.submit(*link, draft);
}

void Calls::settle(Bus& bus, Link& link, const wire::Draft& frame, std::span<const std::byte> bytes, Memory& memory) {
    std::lock_guard lock(mutex_);
    const auto at = sent_.find(frame.id);
    if (at == sent_.end() || at->second->link != &link) {
        discard(bus, memory, frame);
        return;
    }
    if (frame.kind == wire::Kind::item) {
        const auto& call = at->second;
        call->items.emplace_back(bytes.begin(), bytes.end());
        if (call->sink != nullptr) {
            note(call);
        } else {
            ::sem_post(&call->done);
        }
        return;
    }
    const std::shared_ptr<Pending> call = std::move(at->second);
    sent_.erase(at);
    if (frame.target < wire::operation && !call->name.empty()) {
        auto& indices = known_[call->name].indices;
        const auto known =
            std::find_if(indices.begin(), indices.end(), [&](const auto& each) { return each.first == &link; });
        if (known == indices.end()) {
            indices.emplace_back(&link, frame.target);
        } else {
            known->second = frame.target;
        }
    }
    call->frame.assign(bytes.begin(), bytes.end());
    finish(call, Status::ok);
}

void Calls::lost(const Link& link, Status reason) {
    std::lock_guard lock(mutex_);
    for (auto& [name, known] : known_) {
        std::erase_if(known.indices, [&](const auto& each) { return each.first == &link; });
    }
    std::erase_if(words_, [&](const Word& word) { return word.link == &link; });
    std::erase_if(sent_, [&](const auto& entry) {
        if (entry.second->link != &link) return false;
        finish(entry.second, reason);
        return true;
    });
}

void Calls::expire(std::uint64_t now) {
    if (deadlines_.empty() || deadlines_.begin()->first > now) return;
    std::lock_guard lock(mutex_);
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
        const auto at = sent_.find(deadlines_.begin()->second);
        deadlines_.erase(deadlines_.begin());
        if (at == sent_.end()) continue;
        const std::shared_ptr<Pending> call = std::move(at->second);
        sent_.erase(at);
        tell(*call, 0);
        finish(call, Status::timed_out);
    }
}

void Calls::end(Status reason) {
    std::lock_guard lock(mutex_);
    ended_ = true;
    for (const auto& call : outbox_) {
        call->out.end(*call->memory, false);
        finish(call, reason);
    }
    for (const auto& [id, call] : sent_) finish(call, reason);
    outbox_.clear();
    sent_.clear();
    words_.clear();
    known_.clear();
    deadlines_.clear();
}

/// The mutex is held.
void Calls::finish(const std::shared_ptr<Pending>& call, Status outcome) {
    call->outcome = outcome;
    call->settled = true;
    if (call->sink == nullptr) {
        ::sem_post(&call->done);
        return;
    }
    if (call->deadline != 0) deadlines_.erase({call->deadline, call->id});
    note(call);
}

void Calls::note(const std::shared_ptr<Pending>& call) {
    if (!std::exchange(call->in_events, true)) events_.push_back(call);
}

std::vector<Calls::Event> Calls::take_events() {
    std::vector<Event> events;
    events.reserve(events_.size());
    std::lock_guard lock(mutex_);
    for (auto& call : events_) {
        call->in_events = false;
        events.push_back({call, std::exchange(call->items, {}), call->settled});
    }
    events_.clear();
    return events;
}

}  // namespace isthmus::python
