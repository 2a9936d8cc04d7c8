// Who is found by a name, links between any two peers, and how long an object lives that others refer to.
#include <fcntl.h>

#include <thread>

#include "bus/bus.hpp"
#include "catch.hpp"
#include "peer.hpp"

namespace isthmus {
namespace {

using namespace test;
using rendezvous::Broker;
using wire::Kind;

std::uint32_t generation_of(const Bus& bus) { return layout::generation_of(bus.peer(bus.slot()).life); }

wire::Cell object_of(const Bus& owner, std::uint64_t id) {
    return wire::reference(owner.slot(), generation_of(owner), id, 0);
}

/// Sends a post with references.
Status pass(Bus& from, Link& link, std::vector<wire::Cell> cells) {
    const Status status =
        from.submit(link, {.kind = Kind::post, .flags = wire::frame_references, .cells = std::span(cells)});
    from.flush();
    return status;
}

/// What the next post carries; its references are the receiver's to give back. The sender sends on what had to wait.
std::vector<wire::Cell> take(Player& player, Player* sender = nullptr) {
    std::vector<wire::Cell> cells;
    soon([&] {
        if (sender != nullptr) sender->sweep();
        player.bus->attend([](Link&, Status) {});
        const auto got = player.receive();
        player.bus->flush();
        if (got.status != Status::ok) return false;
        cells.assign(got.frame.cells.begin(), got.frame.cells.end());
        return true;
    });
    return cells;
}

std::vector<std::uint64_t> freed(std::vector<Player*> players, Player& owner) {
    std::vector<std::uint64_t> ids;
    soon([&] {
        for (Player* player : players) player->sweep();
        const auto more = owner.bus->take_free();
        ids.insert(ids.end(), more.begin(), more.end());
        return !ids.empty();
    });
    return ids;
}

void settle(std::vector<Player*> players) {
    for (int i = 0; i < 20; ++i) {
        for (Player* player : players) player->sweep();
    }
}

Link& link_between(Bus& from, Bus& to) {
    Link* link = from.link_to(to.slot(), generation_of(to));
    REQUIRE(link != nullptr);
    return *link;
}

void give_back(Bus& holder, const wire::Cell& cell, std::uint32_t uses = 1) {
    holder.give_back(wire::owner_of(cell), cell.count, wire::id_of(cell), uses);
    holder.flush();
}

}  // namespace

TEST_CASE("an object lives until its holder has given back all references it was sent", "[references]") {
    Broker broker(small("lend"));
    Player owner("lend", true), holder("lend", false);
    settle({&owner, &holder});
    Link& link = link_between(*owner.bus, *holder.bus);
    REQUIRE(pass(*owner.bus, link, {object_of(*owner.bus, 7), object_of(*owner.bus, 7)}) == Status::ok);
    REQUIRE(pass(*owner.bus, link, {object_of(*owner.bus, 7)}) == Status::ok);
    const auto cells = take(holder);
    REQUIRE(cells.size() == 2);
    give_back(*holder.bus, cells[0], 2);
    settle({&owner});
    CHECK(owner.bus->take_free().empty());
    REQUIRE(take(holder).size() == 1);
    give_back(*holder.bus, cells[0]);
    CHECK(freed({&owner}, owner) == std::vector<std::uint64_t>{7});
    settle({&owner, &holder});
    CHECK(owner.bus->take_free().empty());
}

TEST_CASE("a reference that goes home is not counted", "[references]") {
    Broker broker(small("home"));
    Player owner("home", true), holder("home", false);
    settle({&owner, &holder});
    REQUIRE(pass(*owner.bus, link_between(*owner.bus, *holder.bus), {object_of(*owner.bus, 7)}) == Status::ok);
    const auto cells = take(holder);
    REQUIRE(pass(*holder.bus, *holder.bus->service(), cells) == Status::ok);
    CHECK(take(owner).size() == 1);
    give_back(*holder.bus, cells[0]);
    CHECK(freed({&owner}, owner) == std::vector<std::uint64_t>{7});
}

TEST_CASE("an object that is passed on lives as long as its new holder", "[references]") {
    Broker broker(small("pass"));
    Player owner("pass", true), first("pass", false), second("pass", false);
    settle({&owner, &first, &second});
    REQUIRE(pass(*owner.bus, link_between(*owner.bus, *first.bus), {object_of(*owner.bus, 9)}) == Status::ok);
    const auto cells = take(first);
    REQUIRE(pass(*first.bus, link_between(*first.bus, *second.bus), cells) == Status::ok);
    give_back(*first.bus, cells[0]);
    const auto passed = take(second, &first);
    REQUIRE(passed.size() == 1);
    CHECK(passed[0].bits == cells[0].bits);
    settle({&owner, &first, &second});
    CHECK(owner.bus->take_free().empty());
    give_back(*second.bus, passed[0]);
    CHECK(freed({&owner, &first, &second}, owner) == std::vector<std::uint64_t>{9});
}

TEST_CASE("a release that overtakes the news of its holder frees nothing early", "[references]") {
    Lending lending;
    lending.lend(1, 10);
    lending.release(1, 20, 1);  // peer 20 was handed it by 10, whose share is still on the way
    CHECK_FALSE(lending.has_free());
    lending.share(1, 20);
    CHECK_FALSE(lending.has_free());
    lending.release(1, 10, 1);
    CHECK(lending.take_free() == std::vector<std::uint64_t>{1});
    CHECK(lending.size() == 0);
}

TEST_CASE("what is not lent can be neither released nor shared", "[references]") {
    Lending lending;
    lending.release(5, 1, 1);
    lending.share(5, 1);
    CHECK(lending.size() == 0);
    CHECK_FALSE(lending.has_free());
}

TEST_CASE("the death of a holder frees what it alone held", "[references]") {
    Broker broker(small("bury"));
    Player owner("bury", true), stays("bury", false);
    auto goes = std::make_unique<Player>("bury", false);
    settle({&owner, &stays, goes.get()});
    REQUIRE(pass(*owner.bus, link_between(*owner.bus, *goes->bus),
                 {object_of(*owner.bus, 1), object_of(*owner.bus, 2)}) == Status::ok);
    REQUIRE(pass(*owner.bus, link_between(*owner.bus, *stays.bus), {object_of(*owner.bus, 2)}) == Status::ok);
    REQUIRE(take(*goes).size() == 2);
    REQUIRE(take(stays).size() == 1);
    goes.reset();
    CHECK(freed({&owner, &stays}, owner) == std::vector<std::uint64_t>{1});
}

TEST_CASE("the death of a holder that got it from another peer is noticed too", "[references]") {
    Broker broker(small("heir"));
    Player owner("heir", true), first("heir", false);
    auto second = std::make_unique<Player>("heir", false);
    settle({&owner, &first, second.get()});
    REQUIRE(pass(*owner.bus, link_between(*owner.bus, *first.bus), {object_of(*owner.bus, 9)}) == Status::ok);
    const auto cells = take(first);
    REQUIRE(pass(*first.bus, link_between(*first.bus, *second->bus), cells) == Status::ok);
    REQUIRE(take(*second, &first).size() == 1);
    give_back(*first.bus, cells[0]);
    settle({&owner, &first, second.get()});
    CHECK(owner.bus->take_free().empty());
    second.reset();
    CHECK(freed({&owner, &first}, owner) == std::vector<std::uint64_t>{9});
}

TEST_CASE("a reference that was not sent is not counted", "[references]") {
    Broker broker(small("unsent"));
    Player owner("unsent", true), holder("unsent", false);
    settle({&owner, &holder});
    const Handle stale{0, 4096, 5 * layout::blocks_per_chunk, 99};
    const wire::Cell cells[] = {object_of(*owner.bus, 3)};
    CHECK(owner.bus->submit(
              link_between(*owner.bus, *holder.bus),
              {.kind = Kind::post, .flags = wire::frame_references, .cells = cells, .payloads = {&stale, 1}}) !=
          Status::ok);
    CHECK(owner.bus->take_free() == std::vector<std::uint64_t>{3});

    REQUIRE(holder.bus->submit(link_between(*holder.bus, *owner.bus), {.kind = Kind::call, .id = 1}) == Status::ok);
    CHECK(soon([&] {
        holder.sweep();
        return owner.receive().status == Status::ok;
    }));
    CHECK(
        owner.bus->answer(
            link_between(*owner.bus, *holder.bus),
            {.kind = Kind::reply, .id = 1, .flags = wire::frame_references, .cells = cells, .payloads = {&stale, 1}}) ==
        Status::stale);
    CHECK(owner.bus->take_free() == std::vector<std::uint64_t>{3});
}

TEST_CASE("a frame that nobody reads gives its references back", "[references]") {
    Broker broker(small("unread"));
    Player owner("unread", true), holder("unread", false);
    settle({&owner, &holder});
    REQUIRE(pass(*owner.bus, link_between(*owner.bus, *holder.bus), {object_of(*owner.bus, 3)}) == Status::ok);
    CHECK(soon([&] {
        holder.bus->attend([](Link&, Status) {});
        const auto got = holder.receive();
        if (got.status == Status::ok) holder.bus->discard(got.frame);
        holder.bus->flush();
        return got.status == Status::ok;
    }));
    CHECK(freed({&owner}, owner) == std::vector<std::uint64_t>{3});
}

TEST_CASE("a name leads to the peer that exports it, else to a service", "[exports]") {
    Broker broker(small("names"));
    Player service("names", true), worker("names", false), caller("names", false);
    settle({&service, &worker, &caller});
    const std::string hosted[] = {"total", "fit"}, offered[] = {"render"};
    REQUIRE(service.bus->publish_exports(hosted) == Status::ok);
    Bus::Route total{.name = "total"}, render{.name = "render"}, unknown{.name = "nothing"};
    CHECK(caller.bus->provider(render)->ends().other == service.bus->slot());
    REQUIRE(worker.bus->publish_exports(offered) == Status::ok);
    CHECK(caller.bus->provider(total)->ends().other == service.bus->slot());
    CHECK(caller.bus->provider(render)->ends().other == worker.bus->slot());
    CHECK(caller.bus->provider(unknown)->ends().other == service.bus->slot());

    REQUIRE(caller.bus->provider(render)->submit({.kind = Kind::call, .id = 1}) == Status::ok);
    caller.bus->flush();
    CHECK(soon([&] {
        for (Player* player : {&service, &worker, &caller}) player->sweep();
        return caller.completed == 1;
    }));
}

TEST_CASE("of several who export a name, who has the least to do is taken", "[exports]") {
    Broker broker(small("least"));
    Player one("least", true), two("least", true), caller("least", false);
    settle({&one, &two, &caller});
    const std::string names[] = {"fit"};
    REQUIRE(one.bus->publish_exports(names) == Status::ok);
    REQUIRE(two.bus->publish_exports(names) == Status::ok);
    Bus::Route route{.name = "fit"};
    std::uint32_t slots[2];
    for (std::uint64_t id = 1; id <= 2; ++id) {
        Link* link = caller.bus->provider(route);
        REQUIRE(link->submit({.kind = Kind::call, .id = id}) == Status::ok);
        slots[id - 1] = link->ends().other;
    }
    CHECK(slots[0] != slots[1]);
}

TEST_CASE("the names of a peer that is gone lead nowhere", "[exports]") {
    Broker broker(small("gone"));
    Player service("gone", true), caller("gone", false);
    auto worker = std::make_unique<Player>("gone", false);
    settle({&service, worker.get(), &caller});
    const std::string names[] = {"render"};
    REQUIRE(worker->bus->publish_exports(names) == Status::ok);
    Bus::Route route{.name = "render"};
    const std::uint32_t slot = worker->bus->slot();
    CHECK(caller.bus->provider(route)->ends().other == slot);
    worker.reset();
    CHECK(soon([&] {
        caller.sweep();
        return caller.bus->provider(route) == nullptr;
    }));
}

TEST_CASE("names that don't fit are refused, and those before stay", "[exports]") {
    Broker broker(small("long"));
    Player service("long", true), caller("long", false);
    const std::string names[] = {"fit"};
    REQUIRE(service.bus->publish_exports(names) == Status::ok);
    const std::vector<std::string> many(10, std::string(7000, 'n'));
    CHECK(service.bus->publish_exports(many) == Status::too_large);
    const std::vector<std::string> longest{std::string(layout::board_bytes - 2, 'n')};
    Bus::Route fit{.name = "fit"}, lengthy{.name = longest[0]};
    caller.bus->provider(fit);
    CHECK(fit.providers.size() == 1);
    REQUIRE(service.bus->publish_exports(longest) == Status::ok);
    caller.bus->provider(lengthy);
    CHECK(lengthy.providers.size() == 1);
}

TEST_CASE("a reader of names never sees half of what is written", "[exports][threads]") {
    Broker broker(small("halves"));
    std::atomic<bool> done{false}, there{false};
    std::atomic<std::uint32_t> slot{0}, generation{0};
    std::thread writer([&] {
        Player service("halves", true);
        slot = service.bus->slot();
        generation = generation_of(*service.bus);
        for (int round = 0; !done; ++round) {
            const std::vector<std::string> names(static_cast<std::size_t>(1 + round % 40),
                                                 std::string(static_cast<std::size_t>(round % 50), 'a'));
            REQUIRE(service.bus->publish_exports(names) == Status::ok);
            there = true;
        }
    });
    while (!there) std::this_thread::yield();
    {
        Player reader("halves", false);
        Segment segment = Segment::open(Fd(::fcntl(reader.bus->memory_fd(), F_DUPFD_CLOEXEC, 0)));
        int wrong = 0;
        for (int i = 0; i < 20'000; ++i) {
            const auto names = board::read(segment, slot, generation);
            for (const std::string& name : names) wrong += name != names[0];
            // 40 and 50 share a factor of 10: the count and the length belong together.
            if (!names.empty()) wrong += (names.size() - 1) % 10 != names[0].size() % 10;
        }
        CHECK(wrong == 0);
    }
    done = true;
    writer.join();
}

TEST_CASE("two clients talk over a link of their own, and a sleeping one is woken", "[references][threads]") {
    Broker broker(small("aside"));
    Service service("aside");
    std::atomic<std::uint64_t> place{0};
    std::atomic<bool> done{false};
    std::thread sleeper([&] {
        Player player("aside", false);
        place = std::uint64_t{generation_of(*player.bus)} << 8 | player.bus->slot();
        while (!done) {
            if (player.sweep() == 0) player.bus->wait(Clock::now() + 5s);
        }
    });
    while (place == 0) std::this_thread::yield();
    {
        Player caller("aside", false);
        const auto start = Clock::now();
        for (std::uint64_t id = 1; id <= 20; ++id) {
            std::this_thread::sleep_for(2ms);
            Link* link =
                caller.bus->link_to(static_cast<std::uint32_t>(place & 0xff), static_cast<std::uint32_t>(place >> 8));
            REQUIRE(link != nullptr);
            REQUIRE(link->submit(caller.draft(Kind::call, id, 10)) == Status::ok);
            caller.bus->flush();
            while (caller.completed < id && caller.lost.empty()) {
                if (caller.sweep() == 0) caller.bus->wait(Clock::now() + 5s);
            }
        }
        CHECK(caller.wrong == 0);
        CHECK(Clock::now() - start < 4s);
        done = true;
        REQUIRE(caller.bus->links().back()->submit({.kind = Kind::post}) == Status::ok);
        caller.bus->flush();
        sleeper.join();
    }
}

TEST_CASE("a peer that is gone gets no link", "[references]") {
    Broker broker(small("nobody"));
    Player service("nobody", true), caller("nobody", false);
    CHECK(caller.bus->link_to(40, 1) == nullptr);
    CHECK(caller.bus->link_to(200, 1) == nullptr);
    CHECK(caller.bus->link_to(caller.bus->slot(), generation_of(*caller.bus)) == nullptr);
}

}  // namespace isthmus
