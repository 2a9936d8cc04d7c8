#include "deferred.hpp"

#include "calling.hpp"

namespace isthmus::python {

// --- any thread ------------------------------------------------------------------------------------------------------

std::optional<Deferred::Entry> Deferred::find(std::uint64_t token) {
    std::lock_guard lock(mutex_);
    const auto at = entries_.find(token);
    return at == entries_.end() ? std::nullopt : std::optional(at->second);
}

bool Deferred::push(Answer& answer) {
    std::lock_guard lock(mutex_);
    if (ended_) return false;
    answers_.push_back(std::move(answer));
    has_answers_.store(true, std::memory_order_relaxed);
    return true;
}

void Deferred::give_up(std::uint64_t token) {
    std::lock_guard lock(mutex_);
    cancelled_.push_back(token);
    has_news_.store(true, std::memory_order_relaxed);
}

void Deferred::take_news(std::vector<std::uint64_t>& cancelled, std::vector<Grant>& grants) {
    std::lock_guard lock(mutex_);
    cancelled.swap(cancelled_);
    grants.swap(grants_);
    has_news_.store(false, std::memory_order_relaxed);
}

// --- the dispatcher's thread ---------------------------------------------------------------------------------------------

std::uint64_t Deferred::add(Entry entry) {
    std::lock_guard lock(mutex_);
    const std::uint64_t token = ++last_token_;
    if (!entry.is_post) tokens_[{entry.link, entry.id}] = token;
    entries_.emplace(token, std::move(entry));
    size_ = entries_.size();
    return token;
}

void Deferred::remove(std::uint64_t token, Memory& memory) {
    std::lock_guard lock(mutex_);
    const auto at = entries_.find(token);
    if (at == entries_.end()) return;
    tokens_.erase({at->second.link, at->second.id});
    memory.objects().bury(at->second.info);
    entries_.erase(at);
    size_ = entries_.size();
}

void Deferred::send(Bus& bus, Memory& memory) {
    if (!has_answers()) return;
    std::vector<Answer> answers;
    std::lock_guard lock(mutex_);
    answers.swap(answers_);
    has_answers_.store(false, std::memory_order_relaxed);
    for (Answer& answer : answers) {
        const auto at = entries_.find(answer.token);
        if (at == entries_.end()) {
            answer.out.end(memory, false);
            continue;
        }
        Entry& entry = at->second;
        wire::Draft draft{.kind = answer.kind,
                          .status = answer.status,
                          .target = entry.index,
                          .id = entry.id,
                          .number = answer.items};
        answer.out.fill(draft);
        Status sent = Status::ok;
        if (!entry.is_post)
            sent = answer.kind == wire::Kind::item ? bus.submit(*entry.link, draft) : bus.answer(*entry.link, draft);
        answer.out.end(memory, sent == Status::ok && !entry.is_post);
        if (answer.kind == wire::Kind::item && sent == Status::ok) continue;
        if (answer.kind == wire::Kind::item) {  // items are not left out: the stream ends
            mark_cancelled(answer.token, entry);
            const wire::Draft end{.kind = wire::Kind::error, .status = sent, .target = entry.index, .id = entry.id};
            (void)bus.answer(*entry.link, end);
        }
        tokens_.erase({entry.link, entry.id});
        memory.objects().bury(entry.info);
        entries_.erase(at);
        size_ = entries_.size();
    }
}

/// The mutex is held.
void Deferred::mark_cancelled(std::uint64_t token, Entry& entry) {
    if (std::exchange(entry.cancelled, true)) return;
    cancelled_.push_back(token);
    has_news_.store(true, std::memory_order_relaxed);
    if (entry.info != nullptr) call_info(entry.info).cancelled.store(true, std::memory_order_relaxed);
}

bool Deferred::cancel(const Link& link, std::uint64_t id) {
    std::lock_guard lock(mutex_);
    const auto at = tokens_.find({&link, id});
    if (at == tokens_.end()) return false;
    mark_cancelled(at->second, entries_.at(at->second));
    return true;
}

bool Deferred::grant(const Link& link, std::uint64_t id, std::uint32_t count) {
    std::lock_guard lock(mutex_);
    const auto at = tokens_.find({&link, id});
    if (at == tokens_.end()) return false;
    grants_.push_back({at->second, count});
    has_news_.store(true, std::memory_order_relaxed);
    return true;
}

void Deferred::forget(const Link& link, Memory& memory) {
    std::lock_guard lock(mutex_);
    for (auto at = entries_.begin(); at != entries_.end();) {
        auto& [token, entry] = *at;
        if (entry.link != &link || entry.is_post) {
            ++at;
            continue;
        }
        mark_cancelled(token, entry);
        tokens_.erase({entry.link, entry.id});
        memory.objects().bury(entry.info);
        at = entries_.erase(at);
        size_ = entries_.size();
    }
}

void Deferred::end(Bus& bus, Memory& memory) {
    send(bus, memory);
    std::lock_guard lock(mutex_);
    ended_ = true;
    for (auto& [token, entry] : entries_) {
        if (!entry.is_post) {
            const wire::Draft draft{
                .kind = wire::Kind::error, .status = Status::closed, .target = entry.index, .id = entry.id};
            (void)bus.answer(*entry.link, draft);
        }
        mark_cancelled(token, entry);
        memory.objects().bury(entry.info);
    }
    entries_.clear();
    size_ = 0;
    tokens_.clear();
}

}  // namespace isthmus::python
