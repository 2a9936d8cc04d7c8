// Several peers that export the same: which of them is called, and how one leaves without losing a call.
#include <map>

#include "catch.hpp"
#include "peer.hpp"

using namespace isthmus;
using namespace isthmus::test;
using wire::Kind;

namespace {

const std::vector<std::string> exports{"fit"};

rendezvous::BrokerOptions named(const std::string& bus) {
    return {.bus = bus, .arena_bytes = 4 << 20, .ring_bytes = layout::least_ring_bytes};
}

struct Worker : Player {
    Worker(const std::string& bus, std::uint32_t number) : Player(bus, true, number) {
        REQUIRE(this->bus->publish_exports(exports) == Status::ok);
    }
    bool is(const Link* link) const { return link != nullptr && link->ends().other == bus->slot(); }
};

}  // namespace

TEST_CASE("the one with the least to do is called, as far as the caller has made it busy", "[workers]") {
    rendezvous::Broker broker(named("least"));
    Worker one("least", 0), two("least", 1);
    Player caller("least", false);
    Bus::Route fit{.name = "fit"};
    std::map<const Link*, int> calls;
    for (std::uint64_t id = 1; id <= 10; ++id) {
        Link* link = caller.bus->provider(fit);
        ++calls[link];
        REQUIRE(link->submit(caller.draft(Kind::call, id, 0)) == Status::ok);
    }
    REQUIRE(calls.size() == 2);
    CHECK(calls.begin()->second == 5);
}

TEST_CASE("and as far as it says that others have", "[workers]") {
    rendezvous::Broker broker(named("busy"));
    Worker one("busy", 0), two("busy", 1);
    Player caller("busy", false);
    Bus::Route fit{.name = "fit"};
    one.bus->show_load(1);
    CHECK(two.is(caller.bus->provider(fit)));
    two.bus->show_load(2);
    CHECK(one.is(caller.bus->provider(fit)));
    CHECK(one.is(caller.bus->service()));
    REQUIRE(caller.bus->provider(fit)->submit(caller.draft(Kind::call, 1, 0)) == Status::ok);
    two.bus->show_load(1);
    CHECK(two.is(caller.bus->provider(fit)));  // of equals the one that this caller awaits nothing of
}

TEST_CASE("who retires is called no more, and knows when what came is all", "[workers]") {
    rendezvous::Broker broker(named("retire"));
    Worker one("retire", 0), two("retire", 1);
    Player caller("retire", false);
    Bus::Route fit{.name = "fit"};
    two.bus->show_load(1);
    Link* before = caller.bus->provider(fit);
    REQUIRE(one.is(before));
    for (Player* each : {static_cast<Player*>(&one), static_cast<Player*>(&two), &caller}) each->sweep();
    REQUIRE(before->submit(caller.draft(Kind::call, 1, 0)) == Status::ok);  // and not shown yet

    one.bus->retire();
    CHECK(two.is(caller.bus->provider(fit)));
    CHECK(two.is(caller.bus->service()));
    one.sweep();
    two.sweep();
    one.sweep();
    CHECK_FALSE(one.bus->is_left_alone());
    CHECK(soon([&] {
        caller.sweep();
        one.sweep();
        return one.bus->is_left_alone();
    }));
    CHECK(soon([&] {
        one.sweep();
        caller.sweep();
        return caller.completed == 1;
    }));
    one.bus.reset();
    caller.sweep();
    CHECK(two.is(caller.bus->provider(fit)));
}

TEST_CASE("who joins while a peer retires is waited for as well", "[workers]") {
    rendezvous::Broker broker(named("late"));
    Worker one("late", 0), two("late", 1);
    one.bus->retire();
    CHECK(soon([&] {
        two.sweep();
        one.sweep();
        return one.bus->is_left_alone();
    }));
    Player late("late", false);  // is introduced to both, and attaches to both
    CHECK_FALSE(one.bus->is_left_alone());
    Bus::Route fit{.name = "fit"};
    CHECK(two.is(late.bus->provider(fit)));
    CHECK(soon([&] {
        late.sweep();
        one.sweep();
        return one.bus->is_left_alone();
    }));
}

TEST_CASE("a name whose exporters are gone is not asked of others", "[workers]") {
    rendezvous::Broker broker(named("gone"));
    auto one = std::make_unique<Worker>("gone", 0);
    Player other("gone", true), caller("gone", false);
    Bus::Route fit{.name = "fit"}, fat{.name = "fat"};
    REQUIRE(one->is(caller.bus->provider(fit)));
    one.reset();
    caller.sweep();
    CHECK(caller.bus->provider(fit) == nullptr);
    CHECK(caller.bus->provider(fat) != nullptr);  // which says that it is not exported
}

TEST_CASE("keys spread over services whose workers have the same numbers", "[workers]") {
    rendezvous::Broker broker(named("same"));
    Worker one("same", 0), two("same", 0);
    Player caller("same", false);
    Bus::Route fit{.name = "fit"};
    int ones = 0;
    for (int key = 0; key < 60; ++key)
        ones += one.is(caller.bus->provider(fit, Bus::sticky_key("key " + std::to_string(key))));
    CHECK(ones > 6);
    CHECK(ones < 54);
}

TEST_CASE("a key leads all callers to one worker, and moves with that alone", "[workers]") {
    rendezvous::Broker broker(named("keys"));
    std::vector<std::unique_ptr<Worker>> workers;
    for (std::uint32_t number = 0; number < 3; ++number) workers.push_back(std::make_unique<Worker>("keys", number));
    Player caller("keys", false), other("keys", false);
    Bus::Route fit{.name = "fit"}, others{.name = "fit"};
    const auto number_of = [&](Player& player, Bus::Route& route, int key) {
        const Link* link = player.bus->provider(route, Bus::sticky_key("key " + std::to_string(key)));
        return player.bus->peer(link->ends().other).service - 1;
    };
    constexpr int keys = 60;
    std::vector<std::uint32_t> before, after, back;
    for (int key = 0; key < keys; ++key) before.push_back(number_of(caller, fit, key));
    for (int key = 0; key < keys; ++key) CHECK(number_of(other, others, key) == before[static_cast<std::size_t>(key)]);
    for (std::uint32_t number = 0; number < 3; ++number)
        CHECK(std::count(before.begin(), before.end(), number) > keys / 10);

    workers[1].reset();
    caller.sweep();
    for (int key = 0; key < keys; ++key) after.push_back(number_of(caller, fit, key));
    for (std::size_t key = 0; key < keys; ++key)
        CHECK((before[key] == 1 ? after[key] != 1 : after[key] == before[key]));

    workers[1] = std::make_unique<Worker>("keys", 1);
    caller.bus->tick();
    for (int key = 0; key < keys; ++key) back.push_back(number_of(caller, fit, key));
    CHECK(back == before);
}

TEST_CASE("a sticky caller stays where it began, as long as that takes calls", "[workers]") {
    rendezvous::Broker broker(named("home"));
    Worker one("home", 0), two("home", 1);
    Player caller("home", false);
    Bus::Route fit{.name = "fit"};
    two.bus->show_load(1);
    REQUIRE(one.is(caller.bus->provider(fit, Bus::by_caller)));
    one.bus->show_load(9);
    CHECK(one.is(caller.bus->provider(fit, Bus::by_caller)));
    CHECK(two.is(caller.bus->provider(fit)));
    Player other("home", true);
    REQUIRE(other.bus->publish_exports(std::vector<std::string>{"fat"}) == Status::ok);
    Bus::Route fat{.name = "fat"};
    caller.bus->tick();
    REQUIRE(caller.bus->provider(fat, Bus::by_caller)->ends().other == other.bus->slot());
    CHECK(one.is(caller.bus->provider(fit, Bus::by_caller)));  // each service has one
    one.bus->decline();
    CHECK(two.is(caller.bus->provider(fit, Bus::by_caller)));
}

TEST_CASE("of peers that are to wait nothing is received, and their frames stay", "[workers]") {
    rendezvous::Broker broker(named("later"));
    Worker worker("later", 0);
    Player one("later", false), two("later", false);
    for (Player* player : {&one, &two}) {
        REQUIRE(player->submit(Kind::post, 1, 0) == Status::ok);
        player->bus->flush();
    }
    REQUIRE(soon([&] {
        worker.bus->attend([](Link&, Status) {});
        return worker.bus->links().size() == 2;
    }));
    for (Player* player : {&one, &two}) player->bus->flush();  // it waited until it was attached to
    const auto room = std::as_writable_bytes(std::span(worker.room));
    const std::uint64_t later = std::uint64_t{1} << one.bus->slot();
    const auto got = worker.bus->receive(room, later);
    REQUIRE(got.status == Status::ok);
    CHECK(got.link->ends().other == two.bus->slot());
    CHECK(worker.bus->receive(room, later).status == Status::empty);
    CHECK(worker.bus->receive(room).status == Status::ok);
}
