// Sleep and wake: a flag in shared memory and one eventfd per peer.
//
//   waiter                            poster
//   arm:  flag = 1                    publish its records
//         full fence       <------>   full fence              "flag or records"
//         look at the rings again     flag == 1? exchange won?
//         sleep on the eventfd        write the eventfd
//
// Each side writes one thing and then reads the other's. With both fences at least one of the two sees the other's write, so a
// waiter that finds nothing and sleeps has a poster that finds the flag. Without one of them a store may still sit in a store
// buffer while the load behind it is done: both see the old value and the message waits for the deadline.
// Source of the protocol: Dekker; libuv's src/unix/async.c keeps the same flag.
#pragma once

#include <sched.h>

#include <chrono>
#include <cstdint>

#include "bus/layout.hpp"

namespace isthmus::doorbell {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

/// gcc refuses fences under ThreadSanitizer; a read-modify-write of the flag, which both sides do, orders as much. The flag of
/// a model brings its own.
template <class Flag>
inline void fence([[maybe_unused]] Flag& flag) {
#if defined(__SANITIZE_THREAD__)
    flag.fetch_add(0, std::memory_order_acq_rel);
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

template <class Flag>
inline void full_fence([[maybe_unused]] Flag& flag) {
#if !defined(ISTHMUS_MUTATE_NO_FENCE)  // the mutation that the tests must notice
    fence(flag);
#endif
}

/// Waiter: announce the sleep. Look at everything once more after it, and sleep only if nothing is there.
template <class Flag>
inline void arm(Flag& asleep) {
    asleep.store(1, std::memory_order_relaxed);  // relaxed: the fence orders it
    full_fence(asleep);                          // pairs with "flag or records" in must_ring
}

/// Waiter: awake. True if a poster has rung or is about to. Relaxed: what it posted is found by looking, not by being rung.
template <class Flag>
inline bool disarm(Flag& asleep) {
    return asleep.exchange(0, std::memory_order_relaxed) == 0;
}

/// Poster, after publishing: whether the other side sleeps and this caller is the one to wake it.
template <class Flag>
inline bool must_ring(Flag& asleep) {
    full_fence(asleep);  // pairs with "flag or records" in arm
    return asleep.load(std::memory_order_relaxed) != 0 && asleep.exchange(0, std::memory_order_relaxed) != 0;
}

/// Producer that waits for room, before arm: asks to be woken when there is some.
template <class Word>
inline void starve(Word& starved) {
    starved.store(1, std::memory_order_relaxed);  // the fence in arm orders it: "flag or room"
}

/// Consumer, after it gave room back: whether the producer sleeps, waits for that, and this caller is the one to wake it.
template <class Flag, class Word>
inline bool must_ring_for_room(Flag& asleep, Word& starved) {
    full_fence(asleep);  // pairs with "flag or room"
    return starved.load(std::memory_order_relaxed) != 0 && must_ring(asleep);
}

/// A fresh eventfd: non-blocking, closed on exec. Throws Error when the process has no descriptor left.
int open();
/// Wakes whoever polls `fd`. Any thread; never blocks.
void ring(int fd) noexcept;
/// Takes back all rings so far.
void silence(int fd) noexcept;
/// Sleeps until `fd` rings or the deadline passes; true if it rang. A signal may end it early.
bool sleep(int fd, Deadline deadline) noexcept;

/// How long to look at shared memory before sleeping: longer where looking has paid off, short where it has not, and not at
/// all on a machine with one processor, where it would only keep the other side from running.
class Spin {
public:
    Spin();
    /// Calls `ready` until it is true or the budget or the deadline is spent.
    template <class Ready>
    bool until(Ready&& ready, Deadline deadline);

private:
    std::chrono::nanoseconds least_, most_, budget_;
};

inline void relax() noexcept {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" ::: "memory");
#endif
}

template <class Ready>
bool Spin::until(Ready&& ready, Deadline deadline) {
    if (ready()) return true;
    if (budget_.count() == 0) return false;
    const auto start = Clock::now();
    const auto stop = std::min(start + budget_, deadline);
    do {
        for (int i = 0; i < 8; ++i) {
            if (ready()) {
                budget_ = std::min(most_, budget_ * 2);
                return true;
            }
            relax();
        }
        const auto now = Clock::now();
        if (now >= stop) break;
        if (now - start > std::chrono::microseconds(2)) ::sched_yield();
    } while (true);
    budget_ = std::max(least_, budget_ / 2);
    return false;
}

}  // namespace isthmus::doorbell
