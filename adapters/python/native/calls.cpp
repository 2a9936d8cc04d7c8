#include "calls.hpp"

#include <algorithm>

namespace isthmus::python {

bool Calls::push(const std::shared_ptr<Pending>& call) {
    std::lock_guard lock(mutex_);
    if (ended_) return false;
    call->id = ++last_id_;
    outbox_.push_back(call);
    has_work_.store(true, std::memory_order_relaxed);
    return true;
}

bool Calls::abandon(Pending& call, Memory& memory) {
    std::lock_guard lock(mutex_);
    const auto queued =
        std::find_if(outbox_.begin(), outbox_.end(), [&](const auto& other) { return other.get() == &call; });
    if (queued != outbox_.end()) {
        call.out.release_payloads(memory);
        outbox_.erase(queued);
        return true;
    }
    if (sent_.erase(call.id) == 0) return false;
    cancels_.push_back({call.id, call.link});
    has_work_.store(true, std::memory_order_relaxed);
    return true;
}

void Calls::send(Bus& bus, Memory& memory) {
    if (!has_work()) return;
    std::lock_guard lock(mutex_);
    has_work_.store(false, std::memory_order_relaxed);
    for (const Cancel& cancel : cancels_) {
        const wire::Draft draft{.kind = wire::Kind::cancel, .id = cancel.id};
        (void)cancel.link->submit(draft);
    }
    cancels_.clear();
    for (auto& call : outbox_) {
        Link* link = bus.service();
        Status status = Status::lost;
        if (link != nullptr) {
            wire::Draft draft{.kind = wire::Kind::call, .id = call->id, .deadline = call->deadline};
            draft.cells = call->out.values.cells();
            draft.heap = call->out.values.heap();
            draft.payloads = call->out.payloads;
            auto& known = indices_[link];
            if (const auto at = known.find(call->name); at != known.end()) {
                draft.target = at->second;
            } else {
                draft.name = call->name;
            }
            status = link->submit(draft);
        }
        call->out.release_payloads(memory);
        if (status != Status::ok) {
            finish(*call, status);
            continue;
        }
        call->link = link;
        sent_.emplace(call->id, std::move(call));
    }
    outbox_.clear();
}

void Calls::settle(Link& link, const wire::Draft& frame, std::span<const std::byte> bytes, Memory& memory) {
    std::lock_guard lock(mutex_);
    const auto at = sent_.find(frame.id);
    if (at == sent_.end() || at->second->link != &link) {
        release_payloads(memory, frame);
        return;
    }
    const std::shared_ptr<Pending> call = std::move(at->second);
    sent_.erase(at);
    if (frame.target != wire::name_only) indices_[&link][call->name] = frame.target;
    call->frame.assign(bytes.begin(), bytes.end());
    finish(*call, Status::ok);
}

void Calls::lost(const Link& link, Status reason) {
    std::lock_guard lock(mutex_);
    indices_.erase(&link);
    std::erase_if(cancels_, [&](const Cancel& cancel) { return cancel.link == &link; });
    std::erase_if(sent_, [&](const auto& entry) {
        if (entry.second->link != &link) return false;
        finish(*entry.second, reason);
        return true;
    });
}

void Calls::end(Status reason, Memory& memory) {
    std::lock_guard lock(mutex_);
    ended_ = true;
    for (const auto& call : outbox_) {
        call->out.release_payloads(memory);
        finish(*call, reason);
    }
    for (const auto& [id, call] : sent_) finish(*call, reason);
    outbox_.clear();
    sent_.clear();
    cancels_.clear();
    indices_.clear();
}

void Calls::finish(Pending& call, Status outcome) {
    call.outcome = outcome;
    ::sem_post(&call.done);
}

}  // namespace isthmus::python
