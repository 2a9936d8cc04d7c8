#include "bus/slice.hpp"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <thread>

#include "catch.hpp"

using isthmus::ShortSlice;

namespace {

/// What the kernel says about the calling thread, in nanoseconds; 0 where it knows no slices of threads.
std::uint64_t slice() {
    struct {
        std::uint32_t size, policy;
        std::uint64_t flags;
        std::int32_t nice;
        std::uint32_t priority;
        std::uint64_t runtime, deadline, period;
    } attributes{};
    REQUIRE(::syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) == 0);
    return attributes.runtime;
}

}  // namespace

TEST_CASE("a thread has short slices for as long as somebody asks, and then what it had") {
    std::thread([] {
        const std::uint64_t before = slice();
        const bool known = before != 0;
        auto one = ShortSlice::of_this_thread();
        auto other = ShortSlice::of_this_thread();
        CHECK((slice() < before) == known);
        one.reset();
        CHECK((slice() < before) == known);
        other.reset();
        CHECK(slice() == before);
    }).join();
}

TEST_CASE("a thread of another policy is left alone") {
    std::thread([] {
        const sched_param none{};
        REQUIRE(::sched_setscheduler(0, SCHED_BATCH, &none) == 0);
        const std::uint64_t before = slice();
        const auto asked = ShortSlice::of_this_thread();
        CHECK(slice() == before);
        CHECK(::sched_getscheduler(0) == SCHED_BATCH);
    }).join();
}

TEST_CASE("slices go back on whichever thread the last one is let go") {
    std::thread([] {
        const std::uint64_t before = slice();
        auto asked = ShortSlice::of_this_thread();
        std::thread([&asked] { asked.reset(); }).join();
        CHECK(slice() == before);
    }).join();
}
