#include "memory.hpp"

#include <sys/mman.h>

#include <atomic>

namespace isthmus::python {

Memory::Memory(Bus& bus, bool pickles)
    : mapping_(bus.mapping()),
      objects_(bus),
      pickles_(pickles),
      base_(bus.arena().memory().base),
      bytes_(bus.arena().memory().bytes),
      memory_fd_(bus.memory_fd()),
      arena_offset_(bus.arena_offset()),
      forks_(fork_count()),
      bus_(&bus),
      arena_(&bus.arena()),
      counters_(&bus.counters()) {
    held_.before = held_.after = &held_;
}

std::shared_ptr<Memory>& Memory::of_this_thread() {
    static thread_local std::shared_ptr<Memory> memory;
    return memory;
}

bool Memory::hold(Hold& hold) {
    std::lock_guard lock(mutex_);
    if (arena_ == nullptr) return false;
    hold.before = &held_;
    hold.after = held_.after;
    hold.after->before = hold.before->after = &hold;
    return true;
}

void Memory::drop(Hold& hold) {
    if (!is_ours()) return;  // the mutex may have been held by a thread that this process does not have
    std::lock_guard lock(mutex_);
    hold.before->after = hold.after;
    hold.after->before = hold.before;
    if (arena_ != nullptr) (void)arena_->release(hold.handle.block, hold.handle.generation);
}

Arena::Allocation Memory::allocate(std::uint64_t bytes) {
    if (!is_ours()) return {Status::closed, {}};
    std::lock_guard lock(mutex_);
    if (arena_ == nullptr) return {Status::closed, {}};
    return arena_->allocate(bytes);
}

std::string Memory::shortage(Status refusal, std::uint64_t bytes) {
    const bool ran_out = refusal == Status::no_memory || refusal == Status::over_quota || refusal == Status::too_large;
    if (!ran_out || !is_ours()) return std::string(sentence(refusal));
    std::lock_guard lock(mutex_);
    return bus_ != nullptr ? bus_->shortage(refusal, bytes) : std::string(sentence(refusal));
}

Status Memory::retain(const Handle& handle) {
    if (!is_ours()) return Status::closed;
    std::lock_guard lock(mutex_);
    return arena_ == nullptr ? Status::closed : arena_->retain(handle.block, handle.generation);
}

void Memory::release(const Handle& handle) {
    if (!is_ours()) return;
    std::lock_guard lock(mutex_);
    if (arena_ != nullptr) (void)arena_->release(handle.block, handle.generation);
}

Handle Memory::retain_found(const void* address, std::uint64_t bytes) {
    const auto* first = static_cast<const std::byte*>(address);
    if (first < base_ || first >= base_ + bytes_ || !is_ours()) return {};
    std::lock_guard lock(mutex_);
    if (arena_ == nullptr) return {};
    const Handle found = arena_->find(address, bytes);
    if (found.bytes == 0 || arena_->retain(found.block, found.generation) != Status::ok) return {};
    return found;
}

void Memory::count_copied(std::uint64_t bytes) {
    if (!is_ours()) return;
    std::lock_guard lock(mutex_);
    if (counters_ != nullptr) counters_->bytes_copied.fetch_add(bytes, std::memory_order_relaxed);
}

void Memory::leave() {
    std::lock_guard lock(mutex_);
    for (const Hold* hold = held_.after; hold != &held_; hold = hold->after) keep_bytes(hold->handle);
    bus_ = nullptr;
    arena_ = nullptr;
    counters_ = nullptr;
}

/// Makes the pages private to this process, in their place, while other threads may read and write them: the kernel swaps the
/// mapping in one step, and copies each page at its first write, which changes nothing here. The block is leased meanwhile.
void Memory::keep_bytes(const Handle& handle) {
    constexpr std::uint64_t page = layout::page_bytes;
    const std::uint64_t first = handle.offset / page * page;
    const std::uint64_t size = layout::up_to_page(handle.offset + handle.bytes) - first;
    if (::mmap(base_ + first, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, memory_fd_,
               static_cast<off_t>(arena_offset_ + first)) == MAP_FAILED) {
        return;
    }
    for (std::uint64_t at = first; at < first + size; at += page) {
        const std::atomic_ref word(*reinterpret_cast<std::uint32_t*>(base_ + at));
        std::uint32_t value = word.load(std::memory_order_relaxed);
        (void)word.compare_exchange_strong(value, value);
    }
}

}  // namespace isthmus::python
