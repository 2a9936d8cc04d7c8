// How soon the kernel runs a thread that was woken, where all processors are busy.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "bus/ticks.hpp"

namespace isthmus {

/// Has the kernel give a thread short slices of time, and so a processor within some 0.2 ms of its wake instead of some 3 ms: it
/// lets others finish a slice that is no longer than theirs (EEVDF; sched_setattr(2), `sched_runtime` of SCHED_OTHER, from Linux
/// 6.12 on). The thread's share of the processors stays what it was. Nothing happens on older kernels, where system calls
/// are filtered (seccomp) unless `ISTHMUS_SHORT_SLICES` is 1, where it is 0, and to threads of another policy. What the thread had
/// before comes back with the last of them; threads and processes that it has begun meanwhile keep what it had then.
class ShortSlice {
public:
    /// The calling thread's, shared by all who ask there.
    static std::shared_ptr<ShortSlice> of_this_thread();

    ShortSlice() noexcept;
    ~ShortSlice();
    ShortSlice(const ShortSlice&) = delete;
    ShortSlice& operator=(const ShortSlice&) = delete;

    /// Between two pieces of work, on its own thread: every 0.1 ms, lets who waits for the processor have it, unless the thread has
    /// slept since the last time, or has no short slices, so that a yield would cost it a long one. The kernel itself looks at wakes
    /// and at ticks, which are 1 to 10 ms apart, and who has just run is often woken a little too early to be let in at once.
    template <class Yield = int (*)() noexcept>
    void give_way(Yield&& yield = ::sched_yield) {
        if (Ticks::now() - looked_at_ <= ticks_.of_ns(100'000)) return;
        if (short_ && has_not_slept()) yield();
        ticks_.learn();
        looked_at_ = Ticks::now();
    }

private:
    /// Since it was asked last.
    bool has_not_slept();

    bool short_ = false;             // the slices, whoever has asked for that
    pid_t thread_ = 0;               // 0: nothing was changed
    unsigned long long before_ = 0;  // ns
    Ticks ticks_;
    std::uint64_t looked_at_ = Ticks::now();
    long slept_ = 0;  // times, until then
};

}  // namespace isthmus
