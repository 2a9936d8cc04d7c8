// The core's protocols, in every schedule. What the explorer proves and what not: tests/models/explorer.hpp.
// Each protocol comes with a broken twin that must be found out: a model that finds nothing proves nothing.
#include <functional>

#include "../bus/catch.hpp"
#include "bus/arena.hpp"
#include "bus/peers.hpp"
#include "bus/ring.hpp"
#include "explorer.hpp"

namespace isthmus::models {
namespace {

struct Positions {
    Word tail, starved, head;
};
using Producer = ring::BasicProducer<Positions>;
using Consumer = ring::BasicConsumer<Positions>;

void put(Producer& producer, std::uint64_t number, std::uint64_t bytes = 8) {
    const auto claim = producer.claim(bytes);
    Model::require(claim.status == Status::ok, "a ring with room has none");
    for (std::uint64_t i = 0; i < bytes; i += 8) std::memcpy(claim.bytes + i, &number, 8);
    producer.commit(layout::RecordKind::frame, bytes);
}

bool get(Consumer& consumer, std::uint64_t number, std::uint64_t bytes, const std::function<void()>& pause) {
    const auto record = consumer.peek();
    if (record.status == Status::empty) return false;
    Model::require(record.status == Status::ok, "a record was seen before it was published");
    Model::require(record.bytes.size() == bytes, "a record was lost");
    for (std::uint64_t i = 0; i < bytes; i += 8) {
        std::uint64_t found;
        std::memcpy(&found, record.bytes.data() + i, 8);
        Model::require(found == number, "a record was torn");
        pause();
    }
    consumer.release();
    return true;
}

/// One peer that sleeps.
struct Sleeper {
    Word asleep, bell;

    template <class Look>
    void wait(Look&& look) {
        doorbell::arm(asleep);
        if (!look()) bell.sleep();
        doorbell::disarm(asleep);
    }
    void wake() { bell.fetch_add(1, std::memory_order_release); }
    /// What whoever finds a dead peer does to all others.
    void wake_after_death() {
        asleep.store(0, std::memory_order_relaxed);
        wake();
    }
};

}  // namespace

TEST_CASE("no wake is lost: a waiter and a poster", "[model][no_fence]") {
    Model model;
    Sleeper waiter;
    Positions positions;
    std::byte* data = model.data(64, Model::Plain::at_once);
    model.thread([&] {
        Consumer consumer(positions, data, 64);
        for (std::uint64_t got = 1; got <= 2;) {
            if (get(consumer, got, 8, [] {})) {
                ++got;
            } else {
                waiter.wait([&] { return consumer.ready(); });
            }
        }
    });
    model.thread([&] {
        Producer producer(positions, data, 64);
        for (std::uint64_t number = 1; number <= 2; ++number) {
            put(producer, number);
            producer.publish();
            if (doorbell::must_ring(waiter.asleep)) waiter.wake();
        }
    });
    const auto outcome = model.explore();
    INFO(outcome.states << " states");
    CHECK(outcome.broken == "");
}

TEST_CASE("no wake is lost: a waiter and two posters", "[model][no_fence]") {
    Model model;
    Sleeper waiter;
    Word mail[2];
    model.thread([&] {
        const auto all = [&] {
            return mail[0].load(std::memory_order_acquire) + mail[1].load(std::memory_order_acquire);
        };
        for (Value seen = 0; seen < 2;) {
            if (const Value now = all(); now > seen) {
                seen = now;
            } else {
                waiter.wait([&] { return all() > seen; });
            }
        }
    });
    for (Word& letter : mail) {
        model.thread([&] {
            letter.store(1, std::memory_order_release);
            if (doorbell::must_ring(waiter.asleep)) waiter.wake();
        });
    }
    const auto outcome = model.explore();
    INFO(outcome.states << " states");
    CHECK(outcome.broken == "");
}

TEST_CASE("no wake is lost: a producer that waits for room", "[model][no_fence]") {
    Model model;
    Sleeper producing;
    Positions positions;
    std::byte* data = model.data(32, Model::Plain::at_once);
    model.thread([&] {
        Producer producer(positions, data, 32);
        put(producer, 1);
        put(producer, 2);
        producer.publish();
        const auto room = [&] { return producer.look() && producer.free() >= 16; };
        bool starved = false;
        while (!room()) {
            if (!std::exchange(starved, true)) doorbell::starve(positions.starved);
            producing.wait(room);
        }
        put(producer, 3);
        producer.publish();
    });
    model.thread([&] {
        Consumer consumer(positions, data, 32);
        positions.tail.await();
        for (std::uint64_t got = 1; got <= 2; ++got) {
            Model::require(get(consumer, got, 8, [] {}), "a published record is not there");
            consumer.retire();
            if (doorbell::must_ring_for_room(producing.asleep, positions.starved)) producing.wake();
        }
    });
    const auto outcome = model.explore();
    INFO(outcome.states << " states");
    CHECK(outcome.broken == "");
}

TEST_CASE("a dead waker strands nobody", "[model]") {
    for (const bool told : {true, false}) {
        Model model;
        Sleeper waiter;
        Word mail, lost;
        model.thread([&] {
            const auto look = [&] {
                return mail.load(std::memory_order_acquire) || lost.load(std::memory_order_acquire);
            };
            while (!look()) waiter.wait(look);
        });
        const auto poster = model.thread(
            [&] {
                mail.store(1, std::memory_order_release);
                if (doorbell::must_ring(waiter.asleep)) waiter.wake();
            },
            true);
        if (told) {
            const auto broker = model.thread(
                [&] {
                    Model::await_death(poster);
                    lost.fetch_or(1, std::memory_order_acq_rel);
                    waiter.wake_after_death();
                },
                true);
            model.thread([&] {
                Model::await_death(broker);
                lost.fetch_or(1, std::memory_order_acq_rel);
                waiter.wake_after_death();
            });
        }
        // Whoever waits for a death that does not come is not counted as stranded: only the waiter is looked at.
        const auto outcome = model.explore_until(0);
        INFO(outcome.states << " states");
        CHECK((outcome.broken == "") == told);
    }
}

namespace {

/// Three records through a ring in which two have room, so that one wraps behind a padding.
Outcome pass_records(bool forgetful_tail, bool retires_too_early) {
    Model model;
    Positions positions;
    Word pause;
    if (forgetful_tail) positions.tail.forget_order();
    std::byte* data = model.data(64, Model::Plain::delayed);
    constexpr std::uint64_t bytes[] = {0, 8, 16, 24, 8};
    model.thread([&] {
        Producer producer(positions, data, 64);
        for (std::uint64_t number = 1; number <= 4; ++number) {
            for (int tries = 0; producer.claim(bytes[number]).status == Status::full; ++tries) {
                if (tries == 1) return;
            }
            put(producer, number, bytes[number]);
            if (number != 1) producer.publish();
        }
    });
    model.thread([&] {
        Consumer consumer(positions, data, 64);
        std::uint64_t next = 1;
        for (int looks = 0; looks < 3 && next <= 4; ++looks) {
            if (retires_too_early) {
                const auto record = consumer.peek();
                if (record.status != Status::ok) continue;
                std::uint64_t number;
                consumer.release();
                consumer.retire();
                pause.pass();
                std::memcpy(&number, record.bytes.data(), 8);
                Model::require(number == next++, "a record was torn");
                continue;
            }
            while (next <= 4 && get(consumer, next, bytes[next], [&] { pause.pass(); })) ++next;
            consumer.retire();
        }
    });
    return model.explore();
}

}  // namespace

TEST_CASE("no record is lost, torn or seen before it is published", "[model]") {
    const auto outcome = pass_records(false, false);
    INFO(outcome.states << " states");
    CHECK(outcome.broken == "");
}

TEST_CASE("a tail that does not release shows records before their bytes, and the model sees it", "[model]") {
    CHECK(pass_records(true, false).broken != "");
}

TEST_CASE("a room that is given back before it was copied out tears records, and the model sees it", "[model]") {
    CHECK(pass_records(false, true).broken != "");
}

namespace {

struct Shared {
    Word leases, generation, contents, offer, taken;
};
using Claim = bool (*)(Word&, Word&, Value);
using Take = bool (*)(Word&, Word&, Value, std::uint32_t);

Value fill(Shared& block, Value generation) {
    block.contents.store(100 + generation, std::memory_order_relaxed);
    return generation;
}
void must_hold(Shared& block, Value generation) {
    for (int look = 0; look < 2; ++look) {
        Model::require(block.contents.load(std::memory_order_relaxed) == 100 + generation,
                       "bytes were handed out under a lease");
    }
}

/// An owner that hands a block out, waits for the taker, lets go and hands it out anew; one or two takers whose handles
/// nobody vouches for any more; and one that may die anywhere, whose bit the broker clears.
Outcome pass_blocks(Claim claim, Take take, bool vouched, int stale_takers, bool dying) {
    Model model;
    Shared block;
    model.thread([&] {
        Model::require(claim(block.leases, block.generation, 1), "a free block can't be had");
        const Value first = fill(block, block.generation.load(std::memory_order_relaxed));
        block.offer.store(first, std::memory_order_release);
        if (vouched) block.taken.await();
        lease::drop(block.leases, 1);
        for (int tries = 0; tries < 2; ++tries) {
            if (!claim(block.leases, block.generation, 1)) continue;
            const Value second = fill(block, block.generation.load(std::memory_order_relaxed));
            must_hold(block, second);
            lease::drop(block.leases, 1);
            return;
        }
    });
    if (vouched) {
        model.thread([&] {
            const Value generation = block.offer.await();
            Model::require(take(block.leases, block.generation, 2, static_cast<std::uint32_t>(generation)),
                           "a vouched lease was refused");
            block.taken.store(1, std::memory_order_release);
            must_hold(block, generation);
            lease::drop(block.leases, 2);
        });
    }
    const auto try_stale = [&](Value bit) {
        const Value generation = block.offer.await();
        if (take(block.leases, block.generation, bit, static_cast<std::uint32_t>(generation))) {
            must_hold(block, generation);
            lease::drop(block.leases, bit);
        }
    };
    for (int i = 0; i < stale_takers; ++i) model.thread([&, i] { try_stale(std::uint64_t{4} << i); });
    if (dying) {
        const auto mortal = model.thread([&] { try_stale(32); }, true);
        model.thread([&, mortal] {
            Model::await_death(mortal);
            lease::drop(block.leases, 32);
        });
    }
    return model.explore_until(0);
}

/// The mutation: the generation grows after the claim.
bool claim_before_generation(Word& leases, Word& generation, Value bit) {
    if (leases.load(std::memory_order_acquire) != 0) return false;
    Value nobody = 0;
    if (!leases.compare_exchange_strong(nobody, bit, std::memory_order_acq_rel)) return false;
    generation.fetch_add(1, std::memory_order_relaxed);
    return true;
}

/// The mutation: the generation is looked at before the bit is set.
bool look_before_take(Word& leases, Word& generation, Value bit, std::uint32_t expected) {
    if (generation.load(std::memory_order_relaxed) != expected) return false;
    const Value before = leases.fetch_or(bit, std::memory_order_acq_rel);
    if (before != 0) return true;
    leases.fetch_and(~bit, std::memory_order_release);
    return false;
}

/// The mutation: a bit that nobody vouches for is kept.
bool take_unvouched(Word& leases, Word& generation, Value bit, std::uint32_t expected) {
    leases.store(leases.load(std::memory_order_relaxed) | bit, std::memory_order_relaxed);
    return generation.load(std::memory_order_relaxed) == expected;
}

constexpr Claim claim = lease::claim<Word, Word>;
constexpr Take take = lease::take<Word, Word>;

}  // namespace

TEST_CASE("no bytes are handed out under a lease", "[model]") {
    for (const auto& [vouched, stale, dying] :
         {std::tuple(true, 1, false), {false, 2, false}, {true, 0, true}, {false, 1, true}}) {
        const auto outcome = pass_blocks(claim, take, vouched, stale, dying);
        INFO(outcome.states << " states, vouched " << vouched << ", stale takers " << stale << ", dying " << dying);
        CHECK(outcome.broken == "");
    }
}

TEST_CASE("a generation that grows after the claim lets a stale taker in, and the model sees it", "[model]") {
    CHECK(pass_blocks(claim_before_generation, take, false, 1, false).broken != "");
}

TEST_CASE("a taker that looks before it sets its bit reads another's bytes, and the model sees it", "[model]") {
    CHECK(pass_blocks(claim, look_before_take, false, 1, false).broken != "");
}

TEST_CASE("a bit that is set without an atomic step is lost, and the model sees it", "[model]") {
    CHECK(pass_blocks(claim, take_unvouched, true, 1, false).broken != "");
}

namespace {

/// A worker that retires while a caller meets it.
Outcome leave_and_meet(bool disorderly_answer) {
    Model model;
    Word retiring, attached, asked, call, last_word, served, gone;
    if (disorderly_answer) last_word.forget_order();
    model.thread([&] {
        peers::retire(retiring);
        if (attached.load(std::memory_order_acquire) != 0) {
            asked.store(1, std::memory_order_release);
            last_word.await();
        } else {
            asked.store(2, std::memory_order_release);  // it leaves, which the link tells the caller
        }
        served.store(call.load(std::memory_order_relaxed), std::memory_order_relaxed);
        gone.store(1, std::memory_order_release);
    });
    model.thread([&] {
        attached.store(1, std::memory_order_release);
        peers::meet(retiring);
        const Value calls = peers::takes_calls(retiring) ? 1 : 0;
        if (calls != 0) call.store(1, std::memory_order_relaxed);
        if (asked.await() == 1) last_word.store(1, std::memory_order_release);  // behind the call, as in the ring
        gone.await();
        Model::require(served.load(std::memory_order_relaxed) == calls, "a call was lost");
    });
    return model.explore();
}

}  // namespace

TEST_CASE("no call is lost when a worker retires while a caller meets it", "[model][no_fence]") {
    const auto outcome = leave_and_meet(false);
    INFO(outcome.states << " states");
    CHECK(outcome.broken == "");
}

TEST_CASE("a last word that overtakes a call loses it, and the model sees it", "[model]") {
    CHECK(leave_and_meet(true).broken != "");
}

}  // namespace isthmus::models
