// What a fork leaves behind in the child: whatever was joined before it belongs to the parent, and a mutex may be held by a
// thread that the child does not have.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <new>

namespace isthmus::python {

/// Counts the forks that led to this process.
std::uint64_t fork_count();

/// A mutex that a fork's child finds free.
class ForkMutex {
public:
    void lock() {
        std::uint64_t forks = forks_.load(std::memory_order_relaxed);
        if (forks != fork_count() && forks_.compare_exchange_strong(forks, fork_count())) new (&mutex_) std::mutex;
        mutex_.lock();
    }
    void unlock() { mutex_.unlock(); }

private:
    std::atomic<std::uint64_t> forks_{fork_count()};
    std::mutex mutex_;
};

}  // namespace isthmus::python
