#include "bus/slice.hpp"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <thread>

#include "catch.hpp"

using namespace std::chrono_literals;
using isthmus::ShortSlice;

namespace {

struct Attributes {
    std::uint32_t size = 48, policy = 0;
    std::uint64_t flags = 0;
    std::int32_t nice = 0;
    std::uint32_t priority = 0;
    std::uint64_t runtime = 0, deadline = 0, period = 0;
};

/// What the kernel says about the calling thread, in nanoseconds; 0 where it knows no slices of threads.
std::uint64_t slice() {
    Attributes attributes;
    REQUIRE(::syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) == 0);
    return attributes.runtime;
}

/// Whether the kernel takes a slice from this process. Those who ask for short ones may, for the whole of this program.
bool can_be_set() {
    ::setenv("ISTHMUS_SHORT_SLICES", "1", 1);
    Attributes attributes;
    attributes.runtime = slice();
    return attributes.runtime != 0 && ::syscall(SYS_sched_setattr, 0, &attributes, 0) == 0;
}

}  // namespace

TEST_CASE("a thread has short slices for as long as somebody asks, and then what it had") {
    std::thread([] {
        const bool known = can_be_set();
        const std::uint64_t before = slice();
        auto one = ShortSlice::of_this_thread();
        auto other = ShortSlice::of_this_thread();
        CHECK((slice() < before) == known);
        one.reset();
        CHECK((slice() < before) == known);
        other.reset();
        CHECK(slice() == before);
    }).join();
}

TEST_CASE("a thread with short slices gives way when it has been busy for long, and not when it has slept") {
    std::thread([] {
        const bool known = can_be_set();
        const auto prompt = ShortSlice::of_this_thread();
        int yields = 0;
        const auto give_way = [&] { prompt->give_way([&] { ++yields; }); };
        const auto end = std::chrono::steady_clock::now() + (known ? 10s : 10ms);
        while (yields < 3 && std::chrono::steady_clock::now() < end) give_way();
        CHECK((yields == 3) == known);
        for (int i = 0; i < 20; ++i) {
            std::this_thread::sleep_for(1ms);
            give_way();
        }
        CHECK((yields == 3) == known);
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
