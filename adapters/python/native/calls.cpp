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
    calls_.emplace(call->id, call);
    outbox_.push_back(call);
    has_work_.store(true, std::memory_order_relaxed);
    return true;
}

/// A word to the callee; the mutex is held.
void Calls::tell(const Pending& call, std::uint32_t credit) {
    words_.push_back({call.id, call.link, credit});
    has_work_.store(true, std::memory_order_relaxed);
}

bool Calls::give_up(std::uint64_t id) {
    std::shared_ptr<Pending> call;  // dropped behind the lock
    std::lock_guard lock(mutex_);
    const auto at = calls_.find(id);
    if (at == calls_.end()) return false;
    call = std::move(at->second);
    calls_.erase(at);
    call->given_up = true;
    if (call->sink != nullptr && call->deadline != 0) given_up_.emplace_back(call->deadline, call->id);
    has_work_.store(true, std::memory_order_relaxed);
    if (call->link != nullptr) {
        tell(*call, 0);
    } else {
        call->out.end(*call->memory, false);
    }
    return true;
}

void Calls::credit(std::uint64_t id, std::uint32_t count) {
    std::lock_guard lock(mutex_);
    const auto at = calls_.find(id);
    if (at == calls_.end() || count == 0) return;
    if (at->second->link != nullptr) {
        tell(*at->second, count);
    } else {
        at->second->credit += count;
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
    if (!has_work() && held_.empty()) return;
    std::lock_guard lock(mutex_);
    if (!held_.empty()) send_held(bus);
    has_work_.store(false, std::memory_order_relaxed);
    for (const auto& given_up : std::exchange(given_up_, {})) deadlines_.erase(given_up);
    for (const Word& word : words_) {
        const auto kind = word.credit == 0 ? wire::Kind::cancel : wire::Kind::credit;
        const wire::Draft draft{.kind = kind, .id = word.id, .number = word.credit};
        (void)bus.submit(*word.link, draft);
    }
    words_.clear();
    std::vector<std::shared_ptr<Pending>> outbox;
    outbox.swap(outbox_);
    for (auto& call : outbox) {
        if (call->is_over()) continue;
        if (call->sink != nullptr && call->deadline != 0) deadlines_.emplace(call->deadline, call->id);
        Link* link = link_for(bus, *call);
        // A call within a call is not held: what came before it may wait for it.
        if (link != nullptr && call->activity == 0 && is_saturated(*link)) {
            held_[link].push_back(std::move(call));
        } else {
            submit(bus, link, call);
        }
    }
}

void Calls::send_posts(Bus& bus) {
    std::lock_guard lock(mutex_);
    const auto send = [&](const std::shared_ptr<Pending>& call) {
        if (call->is_post && !call->is_over()) submit(bus, link_for(bus, *call), call);
    };
    for (const auto& [link, queue] : held_) std::for_each(queue.begin(), queue.end(), send);
    std::for_each(outbox_.begin(), outbox_.end(), send);
}

/// What would wait in the link can't be taken back; here it can.
bool Calls::is_saturated(const Link& link) { return link.in_flight() >= link.most_in_flight() || link.waiting() > 0; }

/// The mutex is held.
void Calls::send_held(Bus& bus) {
    for (auto at = held_.begin(); at != held_.end();) {
        auto& [link, queue] = *at;
        while (!queue.empty() && (queue.front()->is_over() || !bus.takes_calls(*link) || !is_saturated(*link))) {
            const std::shared_ptr<Pending> call = std::move(queue.front());
            queue.pop_front();
            if (!call->is_over())
                submit(bus, bus.takes_calls(*link) ? const_cast<Link*>(link) : link_for(bus, *call), call);
        }
        at = queue.empty() ? held_.erase(at) : std::next(at);
    }
}

Link* Calls::link_for(Bus& bus, const Pending& call) {
    if (call.name.empty())
        return call.slot < layout::max_peers ? bus.link_to(call.slot, call.generation) : bus.service();
    Known& known = known_[call.name];
    if (known.route.name.empty()) known.route.name = call.name;
    return bus.provider(known.route, call.sticky);
}

/// The mutex is held.
void Calls::submit(Bus& bus, Link* link, const std::shared_ptr<Pending>& call) {
    Status status = Status::lost;
    if (link == nullptr && bus.closed()) call->fate = "the bus has ended; connect again once it is served";
    if (link != nullptr && !call->out.pickled.empty() && !call->memory->pickles_for(link->ends().other)) {
        status = Status::closed;
        call->refused = call->out.pickled;
    } else if (link != nullptr) {
        wire::Draft draft{.kind = call->is_post ? wire::Kind::post : wire::Kind::call,
                          .target = call->target,
                          .id = call->id,
                          .deadline = call->deadline};
        draft.activity = call->activity;
        draft.number = call->credit;
        draft.flags = call->flags;
        call->out.fill(draft);
        if (!call->name.empty()) {
            const auto& indices = known_[call->name].indices;
            const auto at =
                std::find_if(indices.begin(), indices.end(), [link](const auto& each) { return each.first == link; });
            if (at != indices.end()) {
                draft.target = at->second;
            } else {
                draft.name = call->name;
            }
        }
        status = bus.submit(*link, draft);
    }
    call->out.end(*call->memory, status == Status::ok);
    if (status == Status::ok && !call->is_post) {
        call->link = link;
    } else {
        calls_.erase(call->id);
        finish(call, status);
    }
}

void Calls::settle(Bus& bus, Link& link, const wire::Draft& frame, std::span<const std::byte> bytes, Memory& memory) {
    std::lock_guard lock(mutex_);
    const auto at = calls_.find(frame.id);
    if (at == calls_.end() || at->second->link != &link) {
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
    calls_.erase(at);
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

void Calls::lost(const Link& link, Status reason, const std::string& fate) {
    std::lock_guard lock(mutex_);
    for (auto& [name, known] : known_) {
        std::erase_if(known.indices, [&](const auto& each) { return each.first == &link; });
    }
    std::erase_if(words_, [&](const Word& word) { return word.link == &link; });
    std::erase_if(calls_, [&](const auto& entry) {
        if (entry.second->link != &link) return false;
        entry.second->fate = fate;
        finish(entry.second, reason);
        return true;
    });
    const auto held = held_.find(&link);
    if (held == held_.end()) return;
    std::vector<std::shared_ptr<Pending>> elsewhere;  // they were never sent
    for (const auto& call : held->second) {
        if (call->is_over()) continue;
        if (!call->name.empty()) {
            elsewhere.push_back(call);
            continue;
        }
        calls_.erase(call->id);
        call->out.end(*call->memory, false);
        finish(call, reason);
    }
    held_.erase(held);
    outbox_.insert(outbox_.begin(), elsewhere.begin(), elsewhere.end());
    if (!elsewhere.empty()) has_work_.store(true, std::memory_order_relaxed);
}

void Calls::expire(std::uint64_t now) {
    if (deadlines_.empty() || deadlines_.begin()->first > now) return;
    std::lock_guard lock(mutex_);
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
        const auto at = calls_.find(deadlines_.begin()->second);
        deadlines_.erase(deadlines_.begin());
        if (at == calls_.end()) continue;
        const std::shared_ptr<Pending> call = std::move(at->second);
        calls_.erase(at);
        if (call->link != nullptr) {
            tell(*call, 0);
        } else {
            call->out.end(*call->memory, false);
        }
        finish(call, Status::timed_out);
    }
}

void Calls::end(Status reason) {
    std::lock_guard lock(mutex_);
    ended_ = true;
    for (const auto& [id, call] : calls_) {
        if (call->link == nullptr) call->out.end(*call->memory, false);
        finish(call, reason);
    }
    calls_.clear();
    outbox_.clear();
    held_.clear();
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
