#include "fork.hpp"

#include <pthread.h>

namespace isthmus::python {

namespace {

std::atomic<std::uint64_t> forks{0};
[[maybe_unused]] const int at_fork =
    ::pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });

}  // namespace

std::uint64_t fork_count() { return forks.load(std::memory_order_relaxed); }

}  // namespace isthmus::python
