// Bytes of a hostile peer, generated from a seed and changed from what is right, for a second or two each. tests/fuzz lets
// libFuzzer look for more.
#include "../fuzz/hostile.hpp"

#include <random>

#include "catch.hpp"
#include "support.hpp"

namespace isthmus {
namespace {

using namespace test;

using Bytes = std::vector<std::byte>;

template <class Word>
void append(Bytes& bytes, Word word) {
    const auto* first = reinterpret_cast<const std::byte*>(&word);
    bytes.insert(bytes.end(), first, first + sizeof word);
}

/// A frame with a little of everything.
Bytes frame(std::mt19937_64& random, const Handle& payload) {
    wire::Values values;
    for (int i = static_cast<int>(random() % 6); i >= 0; --i) {
        const std::uint64_t shape[] = {random() % 5, random() % 5};
        switch (random() % 9) {
            case 0: values.integer(static_cast<std::int64_t>(random())); break;
            case 1: values.text("some text", random() % 2); break;
            case 2:
                values.container(wire::Tag::list, 2);
                values.null();
                values.boolean(true);
                break;
            case 3:
                values.container(wire::Tag::object, 1);
                values.text("key");
                values.real(0.5);
                break;
            case 4: values.array(wire::DType::float64, 0, values.room(shape[0] * shape[1] * 8).second, shape); break;
            case 5:
                values.array(wire::DType::uint8, wire::cell_leased, values.payload(payload), std::span(shape).first(1));
                break;
            case 6: values.bytes(0, values.room(7).second, 7); break;
            case 7:
                values.container(wire::Tag::map, 1);
                values.container(wire::Tag::set, 0);
                values.date(1);
                break;
            case 8: values.bigint(std::as_bytes(std::span(shape))); break;
        }
    }
    const wire::Draft draft{.kind = static_cast<wire::Kind>(1 + random() % 5),
                            .target = 1,
                            .id = random() % 4,
                            .cells = values.cells(),
                            .heap = values.heap(),
                            .payloads = values.payloads(),
                            .name = random() % 2 ? "name" : ""};
    Bytes bytes(wire::size(draft));
    std::vector<std::uint64_t> aligned(bytes.size() / 8 + 1);
    wire::write(draft, reinterpret_cast<std::byte*>(aligned.data()));
    std::memcpy(bytes.data(), aligned.data(), bytes.size());
    return bytes;
}

void change(Bytes& bytes, std::mt19937_64& random) {
    constexpr std::uint64_t odd[] = {
        0, 1, 7, 8, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff, ~0ull};
    for (int changes = static_cast<int>(random() % 4); changes > 0 && !bytes.empty(); --changes) {
        const std::size_t at = random() % bytes.size();
        const std::size_t width = std::min<std::size_t>(bytes.size() - at, std::size_t{1} << random() % 4);
        const std::uint64_t value = random() % 3 == 0 ? random() : odd[random() % std::size(odd)];
        switch (random() % 5) {
            case 0: bytes[at] ^= static_cast<std::byte>(1 << random() % 8); break;
            case 1: bytes.resize(at); break;
            default: std::memcpy(&bytes[at], &value, width);
        }
    }
}

/// What a hostile peer writes: tables, positions and a ring of records, most of them nearly right.
Bytes attack(std::mt19937_64& random) {
    const auto sometimes = [&](std::uint64_t value) { return random() % 6 == 0 ? value : 0; };
    const Handle payload{random() % 4 * 256, random() % 300, static_cast<std::uint32_t>(random() % 20),
                         static_cast<std::uint32_t>(random() % 3)};
    Bytes ring;
    for (int records = static_cast<int>(1 + random() % 5); records > 0; --records) {
        Bytes record;
        std::uint32_t kind = 1;
        switch (random() % 8) {
            case 0:
                kind = 2;
                append(record,
                       Handle{random() % 3 * 256, random() % 2000, static_cast<std::uint32_t>(random() % 3), 0});
                break;
            case 1:
                kind = static_cast<std::uint32_t>(random() % 5);
                record.resize(random() % 60);
                break;
            default: record = frame(random, payload);
        }
        if (random() % 2) change(record, random);
        append(ring, layout::RecordHeader{static_cast<std::uint32_t>(record.size()), kind});
        ring.insert(ring.end(), record.begin(), record.end());
        ring.resize((ring.size() + 7) / 8 * 8);
    }
    Bytes bytes;
    append(bytes, random() % 12 == 0 ? random() : std::uint64_t{ring.size()});
    append(bytes, sometimes(random() % 200));
    append(bytes, random() % 30 == 0 ? random() : std::uint64_t{0});
    for (int i = 0; i < 4; ++i) {
        append(bytes, sometimes(random() % 2 ? layout::orphan : layout::owner_word(1, 1)));
        append(bytes,
               random() % 3 == 0 ? std::uint64_t{256} << random() % 12 | (random() % 6) << 32 : sometimes(random()));
    }
    for (int i = 0; i < 16; ++i) {
        append(bytes, random() % 2 ? random() : std::uint64_t{0});
        append(bytes, random() % 3);
    }
    bytes.insert(bytes.end(), ring.begin(), ring.end());
    return bytes;
}

/// Enough rounds, or as many as fit the time.
template <class Round>
void many(int rounds, Round&& round) {
    const auto deadline = Clock::now() + 2s;
    for (int i = 0; i < rounds && (i % 64 != 0 || Clock::now() < deadline); ++i) round();
}

}  // namespace

TEST_CASE("no bytes make the wire take what its readers can't walk", "[wire][hostile]") {
    std::mt19937_64 random(42);
    int taken = 0;
    many(200'000, [&] {
        Bytes bytes = frame(random, {0, random() % 10, 0, 0});
        change(bytes, random);
        fuzz::play_frame(bytes);
        ++taken;
    });
    CHECK(taken > 1000);
}

TEST_CASE("no bytes of a hostile peer make a link touch what is not there, or keep what is not its own",
          "[link][hostile]") {
    std::mt19937_64 random(43);
    fuzz::Victim victim;
    int played = 0;
    many(20'000, [&] {
        victim.play(attack(random));
        ++played;
    });
    CHECK(played > 100);
}

}  // namespace isthmus
