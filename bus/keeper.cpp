#include "bus/keeper.hpp"

#include <system_error>
#include <utility>

namespace isthmus {

using namespace std::chrono_literals;

namespace {

constexpr auto look_every = 1s;
constexpr auto idle_for = 3s;  // then memory goes back

}  // namespace

Status Keeper::reserve(std::uint64_t first_chunk, std::uint64_t chunks, std::uint32_t blocks) {
    const Status status = pages_.reserve(first_chunk, chunks, blocks);
    if (status == Status::ok) wake();
    return status;
}

void Keeper::wake() {
    std::lock_guard lock(mutex_);
    if (stopped_ || std::exchange(owns_, true)) return;
    changed_.notify_one();
    if (thread_.joinable() || arena_ == nullptr) return;
    try {
        thread_ = std::thread([this] { run(); });
    } catch (const std::system_error&) {
        owns_ = false;  // no thread to be had: the next chunk asks again
    }
}

void Keeper::run() {
    std::unique_lock lock(mutex_);
    const auto stopped = [this] { return stopped_; };
    while (!stopped_) {
        changed_.wait(lock, [this] { return owns_ || stopped_; });
        if (changed_.wait_for(lock, look_every, stopped)) return;
        owns_ = false;  // before looking: what is taken meanwhile says so
        lock.unlock();
        do_chores();
        arena_->trim(std::chrono::steady_clock::now() - idle_for);
        const Arena::Usage usage = arena_->usage();
        const bool owns = usage.owned_chunks > 0 || usage.held_blocks > 0;
        lock.lock();
        owns_ = owns_ || owns;
    }
}

void Keeper::do_chores() {
    std::lock_guard lock(chores_mutex_);
    for (const auto& [whose, chore] : chores_) chore();
}

void Keeper::add_chore(const void* whose, std::function<void()> chore) {
    std::lock_guard lock(chores_mutex_);
    chores_[whose] = std::move(chore);
}

void Keeper::remove_chore(const void* whose) {
    std::lock_guard lock(chores_mutex_);
    chores_.erase(whose);
}

void Keeper::stop() {
    {
        std::lock_guard lock(mutex_);
        stopped_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
}

}  // namespace isthmus
