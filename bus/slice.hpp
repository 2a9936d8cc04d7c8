// How soon the kernel runs a thread that was woken, where all processors are busy.
#pragma once

#include <sys/types.h>

#include <memory>

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

private:
    pid_t thread_ = 0;               // 0: nothing was changed
    unsigned long long before_ = 0;  // ns
};

}  // namespace isthmus
