#include "bus/slice.hpp"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>

namespace isthmus {

namespace {

constexpr std::uint64_t short_slice = 200'000;  // ns; the kernel's least is 100,000

/// struct sched_attr as of its first version; glibc has none before 2.41.
struct Attributes {
    std::uint32_t size = sizeof(Attributes);
    std::uint32_t policy = 0;
    std::uint64_t flags = 0;
    std::int32_t nice = 0;
    std::uint32_t priority = 0;
    std::uint64_t runtime = 0, deadline = 0, period = 0;
};
static_assert(sizeof(Attributes) == 48);

bool get(pid_t thread, Attributes& attributes) {
    return ::syscall(SYS_sched_getattr, thread, &attributes, sizeof attributes, 0) == 0;
}

/// A filter of system calls may end the process for one that it does not know, and does not say so before: with one the kernel is
/// asked only where `ISTHMUS_SHORT_SLICES` is 1, and nowhere where it is 0.
bool may_ask() {
    if (const char* said = std::getenv("ISTHMUS_SHORT_SLICES")) return std::string_view(said) == "1";
    std::ifstream status("/proc/thread-self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("Seccomp:")) return line.ends_with("\t0");
    }
    return false;
}

bool set(pid_t thread, Attributes& attributes) { return ::syscall(SYS_sched_setattr, thread, &attributes, 0) == 0; }

}  // namespace

std::shared_ptr<ShortSlice> ShortSlice::of_this_thread() {
    thread_local std::weak_ptr<ShortSlice> known;
    std::shared_ptr<ShortSlice> slice = known.lock();
    if (slice == nullptr) known = slice = std::make_shared<ShortSlice>();
    return slice;
}

ShortSlice::ShortSlice() noexcept {
    if (!may_ask()) return;
    const auto thread = static_cast<pid_t>(::syscall(SYS_gettid));
    Attributes attributes;
    if (!get(thread, attributes) || attributes.policy != SCHED_OTHER || attributes.runtime == 0) return;
    short_ = attributes.runtime <= short_slice;  // who has begun this thread has asked, or another copy of this code
    if (short_) return;
    before_ = attributes.runtime;
    attributes.runtime = short_slice;
    short_ = set(thread, attributes);
    if (short_) thread_ = thread;
}

ShortSlice::~ShortSlice() {
    Attributes attributes;
    if (thread_ == 0 || !may_ask() || !get(thread_, attributes) || attributes.runtime != short_slice) return;
    attributes.runtime = before_;
    set(thread_, attributes);
}

bool ShortSlice::has_not_slept() {
    rusage used;
    ::getrusage(RUSAGE_THREAD, &used);  // what can fail is a wrong address
    return std::exchange(slept_, used.ru_nvcsw) == used.ru_nvcsw;
}

}  // namespace isthmus
