#include "bus/keeper.hpp"

#include "catch.hpp"
#include "support.hpp"

namespace isthmus {

using namespace test;

namespace {

struct Kept {
    explicit Kept(std::uint64_t chunks)
        : box(chunks), keeper(box.pages), arena(box.memory, keeper, 0, 1, box.counters[0]) {
        keeper.mind(arena);
    }
    ArenaBox box;
    Keeper keeper;
    Arena arena;
};

}  // namespace

TEST_CASE("idle memory goes back though its owner never looks again, also what others release", "[keeper]") {
    Kept kept(64);
    auto reader = kept.box.arena(1);
    const Handle own = kept.arena.allocate(5 * layout::chunk_bytes).handle, lent = kept.arena.allocate(1000).handle;
    REQUIRE(reader->lease(lent) == Status::ok);
    (void)kept.arena.release(own.block, own.generation);
    (void)kept.arena.release(lent.block, lent.generation);
    CHECK(soon([&] { return kept.box.owned_chunks() == 1; }, 10s));
    (void)reader->release(lent.block, lent.generation);
    CHECK(soon([&] { return kept.box.owned_chunks() == 0; }, 10s));
    CHECK(kept.box.pages.punched == 6);
    // and once more, after it has had nothing to look after
    const Handle again = kept.arena.allocate(1000).handle;
    (void)kept.arena.release(again.block, again.generation);
    CHECK(soon([&] { return kept.box.owned_chunks() == 0; }, 10s));
    kept.keeper.stop();
}

TEST_CASE("an arena whose keeper was stopped still allocates", "[keeper]") {
    Kept kept(8);
    const Handle used = kept.arena.allocate(1000).handle;
    kept.keeper.stop();
    (void)kept.arena.release(used.block, used.generation);
    CHECK(kept.arena.allocate(layout::chunk_bytes).status == Status::ok);
}

}  // namespace isthmus
