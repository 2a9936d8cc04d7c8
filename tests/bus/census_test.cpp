#include "bus/census.hpp"

#include "catch.hpp"
#include "support.hpp"

namespace isthmus {

using test::ArenaBox;

TEST_CASE("a census tells who has what", "[census]") {
    constexpr std::uint64_t chunk = layout::chunk_bytes;
    ArenaBox box(16);
    auto a = box.arena(2), b = box.arena(5);
    CHECK(census(box.memory).free == 16 * chunk);
    const Handle small = a->allocate(1000).handle, span = a->allocate(3 * chunk).handle;
    const Handle other = b->allocate(5000).handle;
    REQUIRE(b->lease(span) == Status::ok);
    Census now = census(box.memory);
    CHECK(now.bytes == 16 * chunk);
    CHECK(now.free == 11 * chunk);
    CHECK(now.longest == 11 * chunk);
    CHECK(now.leased == 1024 + 8192 + 3 * chunk);
    CHECK(now.peers[2].owned == 4 * chunk);
    CHECK(now.peers[2].leased == 1024 + 3 * chunk);
    CHECK(now.peers[5].owned == chunk);
    CHECK(now.peers[5].leased == 8192 + 3 * chunk);
    CHECK(now.orphaned == 0);

    a->leave();  // b keeps the span
    now = census(box.memory);
    CHECK(now.orphaned == 3 * chunk);
    CHECK(now.peers[2].owned == 0);
    CHECK(now.leased == 8192 + 3 * chunk);
    (void)b->release(other.block, other.generation);
    (void)small;
}

TEST_CASE("a census of tables that make no sense stays inside of the arena", "[census][hostile]") {
    ArenaBox box(4);
    for (std::uint64_t i = 0; i < 4; ++i) {
        box.chunks[i].owner = ~std::uint64_t{0} - i;
        box.chunks[i].block_bytes = static_cast<std::uint32_t>(i * 77);
        box.chunks[i].span = 0xffffffff;
    }
    for (std::uint64_t i = 0; i < 4 * layout::blocks_per_chunk; ++i) box.blocks[i].leases = ~std::uint64_t{0};
    CHECK(census(box.memory).free == 0);
}

TEST_CASE("bytes are told in units that a person reads", "[census]") {
    CHECK(text_of_bytes(0) == "0 bytes");
    CHECK(text_of_bytes(1023) == "1023 bytes");
    CHECK(text_of_bytes(1536) == "1.5 KiB");
    CHECK(text_of_bytes(64 << 20) == "64 MiB");
    CHECK(text_of_bytes(std::uint64_t{3} << 30) == "3 GiB");
}

}  // namespace isthmus
