#include "bus/segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "catch.hpp"
#include "support.hpp"

namespace isthmus {
namespace {

using test::resident;

constexpr int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

Segment make() { return Segment::create("test", 64 << 10, 1 << 20); }

/// A memfd with this header, as a broker might hand it over.
Fd forged(const layout::Header& header, std::uint64_t bytes, int with_seals) {
    Fd memfd(::memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    REQUIRE(::ftruncate(memfd.get(), static_cast<off_t>(bytes)) == 0);
    REQUIRE(::pwrite(memfd.get(), static_cast<const void*>(&header), sizeof header, 0) ==
            static_cast<ssize_t>(sizeof header));
    if (with_seals) REQUIRE(::fcntl(memfd.get(), F_ADD_SEALS, with_seals) == 0);
    return memfd;
}

Status refusal(Fd fd) {
    try {
        Segment::open(std::move(fd));
        return Status::ok;
    } catch (const Error& error) {
        CHECK(std::strlen(error.what()) > 20);
        return error.status();
    }
}

}  // namespace

TEST_CASE("a segment is sealed, private, sparse and says what it is", "[segment]") {
    const Segment segment = make();
    CHECK((::fcntl(segment.fd(), F_GET_SEALS) & seals) == seals);
    CHECK(::ftruncate(segment.fd(), 4096) < 0);
    CHECK(::ftruncate(segment.fd(), 1 << 30) < 0);
    CHECK(::fcntl(segment.fd(), F_ADD_SEALS, F_SEAL_WRITE) < 0);
    CHECK((::fcntl(segment.fd(), F_GETFD) & FD_CLOEXEC) != 0);
    struct stat file{};
    REQUIRE(::fstat(segment.fd(), &file) == 0);
    CHECK((file.st_mode & 0777) == 0600);
    CHECK(static_cast<std::uint64_t>(file.st_size) == segment.geometry().segment_bytes);
    CHECK(resident(segment) <= segment.geometry().blocks + 65536);
    const auto& header = segment.header();
    CHECK(header.magic == layout::magic);
    CHECK(header.version == layout::version);
    CHECK(header.layout_hash == layout::hash());
    CHECK(header.segment_bytes == segment.geometry().segment_bytes);
    CHECK(std::string(header.name) == "test");
    CHECK(header.broker_pid == static_cast<std::uint32_t>(::getpid()));
}

TEST_CASE("sizes are rounded up to what a bus can have", "[segment]") {
    const auto least = Segment::create("x", 1, 1).geometry();
    CHECK(least.ring_bytes == layout::least_ring_bytes);
    CHECK(least.arena_bytes == layout::chunk_bytes);
    const auto odd = Segment::create("x", 70'000, layout::chunk_bytes + 1).geometry();
    CHECK(odd.ring_bytes == 131072);
    CHECK(odd.arena_bytes == 2 * layout::chunk_bytes);
    const std::string name(200, 'n');
    CHECK(std::string(Segment::create(name, 1, 1).header().name) == name.substr(0, 59));
}

TEST_CASE("a size that nobody could map is refused", "[segment]") {
    for (const std::uint64_t arena : {std::uint64_t{1} << 41, std::uint64_t{1} << 62, ~std::uint64_t{0}}) {
        CHECK_THROWS_AS(Segment::create("x", 1, arena), Error);
    }
}

TEST_CASE("two mappings of one segment are the same memory", "[segment]") {
    const Segment first = make();
    const Segment second = Segment::open(Fd(::fcntl(first.fd(), F_DUPFD_CLOEXEC, 0)));
    CHECK(first.at(0) != second.at(0));
    REQUIRE(first.reserve(first.geometry().arena, 4096) == Status::ok);
    *first.at(first.geometry().arena) = std::byte{42};
    CHECK(*second.at(second.geometry().arena) == std::byte{42});
    CHECK(second.geometry().segment_bytes == first.geometry().segment_bytes);
}

TEST_CASE("what is not the memory of a bus is refused", "[segment]") {
    const Segment good = make();
    layout::Header header;
    std::memcpy(static_cast<void*>(&header), static_cast<const void*>(&good.header()), sizeof header);
    const std::uint64_t bytes = good.geometry().segment_bytes;
    CHECK(refusal(forged(header, bytes, seals)) == Status::ok);
    CHECK(refusal(forged(header, bytes, 0)) == Status::unsafe);
    CHECK(refusal(forged(header, bytes, F_SEAL_SHRINK | F_SEAL_GROW)) == Status::unsafe);
    CHECK(refusal(forged(header, bytes - 4096, seals)) == Status::mismatch);
    CHECK(refusal(forged(header, bytes + 4096, seals)) == Status::mismatch);
    const std::function<void(layout::Header&)> lies[] = {
        [](auto& h) { h.magic ^= 1; },
        [](auto& h) { ++h.version; },
        [](auto& h) { ++h.layout_hash; },
        [](auto& h) { h.segment_bytes += 4096; },
        [](auto& h) { h.ring_bytes = 0; },
        [](auto& h) { h.ring_bytes = 32768; },
        [](auto& h) { h.ring_bytes = 65536 + 8; },
        [](auto& h) { h.ring_bytes = std::uint64_t{1} << 63; },
        [](auto& h) { h.arena_bytes = 0; },
        [](auto& h) { h.arena_bytes += 1; },
        [](auto& h) { h.arena_bytes = ~std::uint64_t{0} - layout::chunk_bytes + 1; },
    };
    for (const auto& lie : lies) {
        layout::Header lying;
        std::memcpy(static_cast<void*>(&lying), static_cast<const void*>(&header), sizeof header);
        lie(lying);
        CHECK(refusal(forged(lying, bytes, seals)) == Status::mismatch);
    }
    CHECK(refusal(Fd(::memfd_create("empty", MFD_CLOEXEC))) != Status::ok);
    CHECK(refusal(Fd(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC))) != Status::ok);
    CHECK(refusal(Fd()) != Status::ok);
}

TEST_CASE("pages are had before use, and given back", "[segment]") {
    const Segment segment = make();
    const auto arena = segment.geometry().arena;
    const auto before = resident(segment);
    REQUIRE(segment.reserve(arena, 1 << 20) == Status::ok);
    CHECK(resident(segment) >= before + (1 << 20));
    std::memset(segment.at(arena), 7, 1 << 20);
    segment.punch(arena, 512 << 10);
    CHECK(resident(segment) < before + (1 << 20));
    CHECK(*segment.at(arena + 1000) == std::byte{0});
    CHECK(*segment.at(arena + (600 << 10)) == std::byte{7});
}

TEST_CASE("pages that can't be had are a value", "[segment]") {
    const Segment segment = make();
    CHECK(segment.reserve(segment.geometry().segment_bytes, 4096) == Status::no_memory);
    CHECK(segment.reserve(segment.geometry().arena, std::uint64_t{1} << 62) == Status::no_memory);
}

TEST_CASE("a descriptor has one owner", "[segment]") {
    Fd first(::memfd_create("x", MFD_CLOEXEC));
    const int number = first.get();
    Fd second = std::move(first);
    CHECK_FALSE(first);
    CHECK(second.get() == number);
    Fd third = second.copy();
    CHECK(third.get() != number);
    CHECK((::fcntl(third.get(), F_GETFD) & FD_CLOEXEC) != 0);
    second = std::move(third);
    CHECK(::fcntl(number, F_GETFD) < 0);
    CHECK_THROWS_AS(Fd().copy(), Error);
}

}  // namespace isthmus
