#include "bus/doorbell.hpp"

#include <unistd.h>

#include <thread>

#include "bus/ring.hpp"
#include "catch.hpp"
#include "support.hpp"

namespace isthmus {
namespace {

using namespace std::chrono_literals;
using doorbell::Clock;

/// An eventfd and its flag.
struct Bell {
    layout::Word32 asleep{0};
    Fd fd{doorbell::open()};
};

}  // namespace

TEST_CASE("a bell that was rung ends the next sleep, and only one", "[doorbell]") {
    Bell bell;
    doorbell::ring(bell.fd.get());
    doorbell::ring(bell.fd.get());
    CHECK(doorbell::sleep(bell.fd.get(), Clock::now() + 5s));
    doorbell::silence(bell.fd.get());
    const auto start = Clock::now();
    CHECK_FALSE(doorbell::sleep(bell.fd.get(), start + 20ms));
    CHECK(Clock::now() - start >= 20ms);
}

TEST_CASE("a deadline that has passed does not sleep", "[doorbell]") {
    Bell bell;
    const auto start = Clock::now();
    CHECK_FALSE(doorbell::sleep(bell.fd.get(), start - 1s));
    CHECK(Clock::now() - start < 1s);
}

TEST_CASE("ringing never blocks, however often", "[doorbell]") {
    Bell bell;
    const std::uint64_t most = ~std::uint64_t{0} - 1;
    REQUIRE(::write(bell.fd.get(), &most, sizeof most) == sizeof most);
    for (int i = 0; i < 3; ++i) doorbell::ring(bell.fd.get());
    CHECK(doorbell::sleep(bell.fd.get(), Clock::now()));
    doorbell::silence(bell.fd.get());
    doorbell::silence(bell.fd.get());
    CHECK_FALSE(doorbell::sleep(bell.fd.get(), Clock::now()));
}

TEST_CASE("only a sleeper is rung, and by one poster only", "[doorbell]") {
    Bell bell;
    CHECK_FALSE(doorbell::must_ring(bell.asleep));
    doorbell::arm(bell.asleep);
    CHECK(doorbell::must_ring(bell.asleep));
    CHECK_FALSE(doorbell::must_ring(bell.asleep));
    CHECK(doorbell::disarm(bell.asleep));
    doorbell::arm(bell.asleep);
    CHECK_FALSE(doorbell::disarm(bell.asleep));
    CHECK_FALSE(doorbell::must_ring(bell.asleep));
}

TEST_CASE("room given back rings only a sleeper that asked for it", "[doorbell]") {
    Bell bell;
    layout::Word32 starved{0};
    doorbell::arm(bell.asleep);
    CHECK_FALSE(doorbell::must_ring_for_room(bell.asleep, starved));
    doorbell::starve(starved);
    CHECK(doorbell::must_ring_for_room(bell.asleep, starved));
    CHECK_FALSE(doorbell::must_ring_for_room(bell.asleep, starved));
}

TEST_CASE("two threads that sleep for every message lose no wake", "[doorbell][threads]") {
    // The model explores all schedules of a few messages; this runs many messages on the real thing.
    // As many as a busy machine plays in time.
    std::atomic<std::uint32_t> rounds{5000};
    const auto deadline = Clock::now() + 1500ms;
    struct Side {
        Bell bell;
        layout::Word32 mail{0};
    };
    Side sides[2];
    std::atomic<int> late{0};
    const auto play = [&](Side& mine, Side& other, bool begins) {
        for (std::uint32_t round = 1; round <= rounds; ++round) {
            if (begins) {
                if (Clock::now() > deadline) rounds = round;
                other.mail.store(round, std::memory_order_release);
                if (doorbell::must_ring(other.bell.asleep)) doorbell::ring(other.bell.fd.get());
            }
            while (mine.mail.load(std::memory_order_acquire) != round) {
                doorbell::arm(mine.bell.asleep);
                if (mine.mail.load(std::memory_order_acquire) != round) {
                    late += !doorbell::sleep(mine.bell.fd.get(), Clock::now() + 2s);
                }
                if (doorbell::disarm(mine.bell.asleep)) doorbell::silence(mine.bell.fd.get());
                if (late > 0) return;
            }
            if (!begins) {
                other.mail.store(round, std::memory_order_release);
                if (doorbell::must_ring(other.bell.asleep)) doorbell::ring(other.bell.fd.get());
            }
        }
    };
    std::thread second([&] { play(sides[1], sides[0], false); });
    play(sides[0], sides[1], true);
    second.join();
    CHECK(late == 0);
}

TEST_CASE("spinning ends when something is there, and soon when nothing is", "[doorbell]") {
    doorbell::Spin spin;
    CHECK(spin.until([] { return true; }, Clock::now()));
    int looks = 0;
    const auto start = Clock::now();
    CHECK_FALSE(spin.until([&] { return ++looks < 0; }, start + 10s));
    CHECK(Clock::now() - start < 5s);
    CHECK(looks >= 1);
}

}  // namespace isthmus
