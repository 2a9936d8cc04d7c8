// A clock that costs a quarter of clock_gettime, for decisions that may be a little off.
#pragma once

#include <cstdint>
#include <ctime>

namespace isthmus {

/// CLOCK_MONOTONIC in nanoseconds, as deadlines count.
inline std::uint64_t now_ns() {
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

class Ticks {
public:
    static std::uint64_t now() {
#if defined(__x86_64__)
        return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
        std::uint64_t count;
        asm volatile("mrs %0, cntvct_el0" : "=r"(count));
        return count;
#else
        return now_ns();
#endif
    }

    /// Learns how fast the counter runs; a tick counts as a nanosecond until a millisecond has passed.
    void learn() {
        const std::uint64_t nanoseconds = now_ns() - began_ns_;
        if (nanoseconds > 1'000'000) per_ns_ = static_cast<double>(now() - began_) / static_cast<double>(nanoseconds);
    }
    std::uint64_t of_ns(std::uint64_t nanoseconds) const {
        return static_cast<std::uint64_t>(static_cast<double>(nanoseconds) * per_ns_);
    }

private:
    std::uint64_t began_ = now(), began_ns_ = now_ns();
    double per_ns_ = 1;
};

}  // namespace isthmus
