#include "bus/wire.hpp"

#include <flatbuffers/flatbuffers.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "frame_generated.h"
#include "support.hpp"

namespace isthmus {
namespace {

using namespace wire;

/// A frame's bytes, 8-byte aligned.
struct Bytes {
    explicit Bytes(std::size_t size) : words((size + 7) / 8), size(size) {}
    std::byte* data() { return reinterpret_cast<std::byte*>(words.data()); }
    std::span<const std::byte> span() const { return {reinterpret_cast<const std::byte*>(words.data()), size}; }
    std::vector<std::uint64_t> words;
    std::size_t size;
};

Bytes written(const Draft& draft) {
    Bytes bytes(wire::size(draft));
    wire::write(draft, bytes.data());
    return bytes;
}

Draft draft_of(const Values& values, Kind kind = Kind::call) {
    return {.kind = kind,
            .target = 3,
            .id = 77,
            .cells = values.cells(),
            .heap = values.heap(),
            .payloads = values.payloads()};
}

/// What read says of a frame with exactly these parts.
Status verdict(std::vector<Cell> cells, std::string_view heap = {}, std::vector<Handle> payloads = {}) {
    const Draft draft{.id = 1, .cells = cells, .heap = std::as_bytes(std::span(heap)), .payloads = payloads};
    const Bytes bytes = written(draft);
    Draft out;
    return read(bytes.span(), out);
}

Cell cell(Tag tag, std::uint32_t count = 0, std::uint64_t bits = 0, DType dtype = DType::none,
          std::uint16_t flags = 0) {
    return {tag, dtype, flags, count, bits};
}

std::string hex(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte byte : bytes) {
        text += "0123456789abcdef"[static_cast<int>(byte) >> 4];
        text += "0123456789abcdef"[static_cast<int>(byte) & 15];
    }
    return text;
}

}  // namespace

TEST_CASE("a call frame is these bytes, for whoever writes a third adapter", "[wire]") {
    Values values;
    values.integer(7);
    values.text("hi", true);
    const Draft call{
        .kind = Kind::call, .id = 1, .deadline = 2, .cells = values.cells(), .heap = values.heap(), .name = "add"};
    CHECK(hex(written(call).span()) ==
          "20000000"  // the table lies at 32
          // vtable: 28 bytes, of a table of 56, where its twelve fields are
          "1c00380008001000180004002400200021002200280"
          "02c0030003400"
          "1c000000"                          // the table: 28 bytes back to its vtable
          "ffffffff"                          // target: the name
          "01000000000000000200000000000000"  // id, deadline
          "0000000000000000"                  // activity
          "01"
          "00"
          "0000"      // kind: call; status: ok; flags
          "00000000"  // number
          "14000000"
          "38000000"
          "08000000"
          "40000000"  // where cells, heap, payloads and name are
          "00000000"  // the vector of nothing
          "02000000"
          "02000000000000000700000000000000"  // integer 7
          "05000400020000000000000000000000"  // text, ascii, 2 bytes at 0
          "00000000"
          "02000000"
          "6869000000000000"
          "00000000"  // heap
          "03000000"
          "6164640000000000"
          "00000000");  // name
}

TEST_CASE("what write writes is what the generated code reads", "[wire]") {
    Values values;
    values.container(Tag::list, 2);
    values.real(2.5);
    values.text("Grüße");
    const std::uint64_t shape[] = {2, 3};
    values.array(DType::float32, cell_leased, values.payload({4096, 24, 16, 9}), shape);
    Draft draft = draft_of(values, Kind::post);
    draft.status = Status::timed_out;
    draft.deadline = 123456789;
    draft.name = "x.y";
    const Bytes bytes = written(draft);

    flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(bytes.span().data()), bytes.size);
    REQUIRE(fbs::VerifyFrameBuffer(verifier));
    const auto* frame = fbs::GetFrame(bytes.span().data());
    CHECK(frame->kind() == fbs::Kind::post);
    CHECK(frame->status() == static_cast<std::uint8_t>(Status::timed_out));
    CHECK(frame->target() == 3);
    CHECK(frame->id() == 77);
    CHECK(frame->deadline() == 123456789);
    REQUIRE(frame->cells()->size() == values.cells().size());
    for (std::uint32_t i = 0; i < frame->cells()->size(); ++i) {
        const auto* got = frame->cells()->Get(i);
        const Cell& put = values.cells()[i];
        CHECK(got->tag() == static_cast<std::uint8_t>(put.tag));
        CHECK(got->dtype() == static_cast<std::uint8_t>(put.dtype));
        CHECK(got->flags() == put.flags);
        CHECK(got->count() == put.count);
        CHECK(got->bits() == put.bits);
    }
    CHECK(std::string(reinterpret_cast<const char*>(frame->heap()->data()), frame->heap()->size()) == "Grüße");
    REQUIRE(frame->payloads()->size() == 1);
    CHECK(frame->payloads()->Get(0)->offset() == 4096);
    CHECK(frame->payloads()->Get(0)->bytes() == 24);
    CHECK(frame->payloads()->Get(0)->block() == 16);
    CHECK(frame->payloads()->Get(0)->generation() == 9);
    CHECK(std::string(reinterpret_cast<const char*>(frame->name()->data()), frame->name()->size()) == "x.y");
}

TEST_CASE("what the generated code builds is what read reads", "[wire]") {
    flatbuffers::FlatBufferBuilder builder;
    const std::uint8_t heap[] = {'a', 'b', 'c'};
    const auto heap_at = builder.CreateVector(heap, 3);
    const fbs::Cell cells[] = {{static_cast<std::uint8_t>(Tag::text), 0, 0, 3, 0},
                               {static_cast<std::uint8_t>(Tag::boolean), 0, 0, 0, 1}};
    const auto cells_at = builder.CreateVectorOfStructs(cells, 2);
    const fbs::Payload payloads[] = {{0, 100, 5, 6}};
    const auto payloads_at = builder.CreateVectorOfStructs(payloads, 1);
    const std::uint8_t name[] = {'f'};
    const auto name_at = builder.CreateVector(name, 1);
    builder.Finish(
        fbs::CreateFrame(builder, 12, 34, 78, 56, 90, fbs::Kind::reply, 0, 4, cells_at, heap_at, payloads_at, name_at));
    Bytes bytes(builder.GetSize());
    std::memcpy(bytes.data(), builder.GetBufferPointer(), bytes.size);

    Draft out;
    REQUIRE(read(bytes.span(), out) == Status::ok);
    CHECK(out.kind == Kind::reply);
    CHECK(out.activity == 78);
    CHECK(out.number == 90);
    CHECK(out.flags == wire::frame_keeps);
    CHECK(out.id == 12);
    CHECK(out.deadline == 34);
    CHECK(out.target == 56);
    REQUIRE(out.cells.size() == 2);
    CHECK(out.cells[0].tag == Tag::text);
    CHECK(out.cells[1].bits == 1);
    CHECK(test::view(out.heap) == "abc");
    REQUIRE(out.payloads.size() == 1);
    CHECK(out.payloads[0].generation == 6);
    CHECK(out.name == "f");

    // A table with nothing in it is a call with no arguments: every field has a default.
    flatbuffers::FlatBufferBuilder bare;
    bare.Finish(fbs::FrameBuilder(bare).Finish());
    Bytes least(bare.GetSize());
    std::memcpy(least.data(), bare.GetBufferPointer(), least.size);
    REQUIRE(read(least.span(), out) == Status::ok);
    CHECK(out.kind == Kind::call);
    CHECK(out.cells.empty());
    CHECK(out.name.empty());
}

TEST_CASE("frames that were tampered with are read as the generated code reads them, or refused", "[wire]") {
    Values values;
    values.text("abc");
    values.integer(1);
    const std::uint64_t shape[] = {3};
    values.array(DType::float64, cell_leased, values.payload({256, 24, 1, 2}), shape);
    Draft draft = draft_of(values, Kind::call);
    draft.name = "name";
    const Bytes whole = written(draft);
    std::uint32_t taken = 0;
    for (std::size_t at = 0; at < whole.size; ++at) {
        for (int value = 0; value < 256; ++value) {
            Bytes bytes = whole;
            bytes.data()[at] = static_cast<std::byte>(value);
            Draft out;
            if (read(bytes.span(), out) != Status::ok) continue;
            ++taken;
            const auto* start = reinterpret_cast<const std::uint8_t*>(bytes.span().data());
            flatbuffers::Verifier verifier(start, bytes.size);
            REQUIRE(fbs::VerifyFrameBuffer(verifier));
            const auto* frame = fbs::GetFrame(start);
            const auto same = [](const auto& view, const auto* vector) {
                return view.size() == (vector ? vector->size() : 0) &&
                       (view.empty() || static_cast<const void*>(view.data()) == vector->Data());
            };
            REQUIRE((same(out.cells, frame->cells()) && same(out.heap, frame->heap()) &&
                     same(out.payloads, frame->payloads()) && same(out.name, frame->name())));
            REQUIRE((out.id == frame->id() && out.deadline == frame->deadline() && out.activity == frame->activity() &&
                     out.target == frame->target() && out.number == frame->number() && out.flags == frame->flags() &&
                     static_cast<std::uint8_t>(out.kind) == static_cast<std::uint8_t>(frame->kind()) &&
                     static_cast<std::uint8_t>(out.status) == frame->status()));
        }
    }
    CHECK(taken > whole.size);
}

TEST_CASE("every tag makes the round trip", "[wire]") {
    Values values;
    values.null();
    values.boolean(true);
    values.integer(std::numeric_limits<std::int64_t>::min());
    values.real(-0.0);
    const std::byte big[] = {std::byte{0xff}, std::byte{0}, std::byte{0x80}};
    values.bigint(big);
    values.text("plain", true);
    values.text("\xed\xa0\x80");  // a lone surrogate
    const auto [room, at] = values.room(5);
    std::memcpy(room, "12345", 5);
    values.bytes(0, at, 5);
    values.container(Tag::list, 2);
    values.container(Tag::set, 0);
    values.integer(1);
    values.container(Tag::object, 1);
    values.text("key");
    values.container(Tag::map, 1);
    values.real(std::nan(""));
    values.null();
    values.date(1e15);
    const auto [elements, where] = values.room(48);
    std::memset(elements, 1, 48);
    CHECK(where % 8 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(elements) % 8 == 0);
    const std::uint64_t shape[] = {2, 3};
    values.array(DType::float64, cell_fortran, where, shape);
    values.array(DType::complex128, cell_leased | cell_moved, values.payload({256, 160, 1, 2}),
                 std::span(shape).first(1));
    values.array(DType::int32, 0, 0, {});  // no dimension: one element

    const Draft draft = draft_of(values, Kind::reply);
    const Bytes bytes = written(draft);
    CHECK(bytes.size == wire::size(draft));
    Draft out;
    REQUIRE(read(bytes.span(), out) == Status::ok);
    REQUIRE(out.cells.size() == values.cells().size());
    for (std::size_t i = 0; i < out.cells.size(); ++i)
        CHECK(std::memcmp(&out.cells[i], &values.cells()[i], sizeof(Cell)) == 0);
    CHECK(test::view(out.heap) == test::view(values.heap()));
    REQUIRE(out.payloads.size() == 1);
    CHECK(out.payloads[0].bytes == 160);
    CHECK(out.name.empty());
    CHECK(reinterpret_cast<std::uintptr_t>(out.cells.data()) % 8 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(out.heap.data()) % 8 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(out.payloads.data()) % 8 == 0);
}

TEST_CASE("frames with any mixture of parts are aligned and as long as announced", "[wire]") {
    const std::vector<Cell> cells(3, cell(Tag::null));
    const std::vector<Handle> payloads(2);
    const std::string heap(64, 'h'), name(64, 'n');
    for (std::size_t c = 0; c <= 3; ++c) {
        for (std::size_t h = 0; h <= 17; ++h) {
            for (std::size_t p = 0; p <= 2; ++p) {
                for (std::size_t n = 0; n <= 9; ++n) {
                    const Draft draft{.kind = Kind::cancel,
                                      .id = 5,
                                      .cells = std::span(cells).first(c),
                                      .heap = std::as_bytes(std::span(heap).first(h)),
                                      .payloads = std::span(payloads).first(p),
                                      .name = std::string_view(name).substr(0, n)};
                    Bytes bytes(wire::size(draft) + 8);
                    bytes.words.back() = 0xa5a5a5a5a5a5a5a5;
                    wire::write(draft, bytes.data());
                    std::uint64_t behind;
                    std::memcpy(&behind, bytes.data() + wire::size(draft), 8);
                    REQUIRE((behind & 0xff) == (wire::size(draft) % 8 == 0 ? 0xa5 : behind & 0xff));
                    Draft out;
                    REQUIRE(read(bytes.span().first(wire::size(draft)), out) == Status::ok);
                    REQUIRE((out.cells.size() == c && out.heap.size() == h && out.payloads.size() == p &&
                             out.name.size() == n));
                }
            }
        }
    }
}

TEST_CASE("a small answer fits the room that is kept for one", "[wire]") {
    Values values;
    values.real(1.5);
    CHECK(wire::size(draft_of(values, Kind::reply)) + 8 <= 128);
    CHECK(wire::size({.kind = Kind::error, .status = Status::no_memory}) + 8 <= 128);
}

TEST_CASE("values that are not well formed are refused", "[wire]") {
    const auto max = std::numeric_limits<std::uint64_t>::max();
    const std::pair<const char*, std::function<Status()>> cases[] = {
        {"a tag that does not exist", [&] { return verdict({cell(Tag{14})}); }},
        {"the last tag there could be", [&] { return verdict({cell(Tag{255})}); }},
        {"an extent of no array", [&] { return verdict({cell(Tag::extent, 0, 1)}); }},
        {"a text beyond the heap", [&] { return verdict({cell(Tag::text, 4, 0)}, "abc"); }},
        {"a text that begins beyond the heap", [&] { return verdict({cell(Tag::text, 0, 4)}, "abc"); }},
        {"a text whose offset overflows", [&] { return verdict({cell(Tag::text, 8, max - 3)}, "abc"); }},
        {"a text that says it is ascii and is not",
         [&] { return verdict({cell(Tag::text, 3, 0, DType::none, cell_ascii)}, "a\xc3\xa9"); }},
        {"an ascii text that ends badly",
         [&] { return verdict({cell(Tag::text, 17, 1, DType::none, cell_ascii)}, "?0123456789abcdef\x80"); }},
        {"a bigint beyond the heap", [&] { return verdict({cell(Tag::bigint, 4, 1)}, "abcd"); }},
        {"a list with too few items", [&] { return verdict({cell(Tag::list, 2), cell(Tag::null)}); }},
        {"a list that ends the frame", [&] { return verdict({cell(Tag::list, 1)}); }},
        {"a list of four milliards", [&] { return verdict({cell(Tag::list, 0xffffffff), cell(Tag::null)}); }},
        {"a map of four milliards", [&] { return verdict({cell(Tag::map, 0xffffffff), cell(Tag::null)}); }},
        {"a map with half an entry", [&] { return verdict({cell(Tag::map, 1), cell(Tag::null)}); }},
        {"an object whose key is no text",
         [&] { return verdict({cell(Tag::object, 1), cell(Tag::integer), cell(Tag::null)}); }},
        {"an object whose second key is a list",
         [&] {
             return verdict({cell(Tag::object, 2), cell(Tag::text), cell(Tag::null), cell(Tag::list), cell(Tag::null)});
         }},
        {"an array without its extents",
         [&] { return verdict({cell(Tag::array, 2, 0, DType::int8), cell(Tag::extent, 0, 1)}, "abc"); }},
        {"an array whose extent is something else",
         [&] { return verdict({cell(Tag::array, 1, 0, DType::int8), cell(Tag::integer, 0, 1)}, "abc"); }},
        {"an array of four milliard dimensions",
         [&] { return verdict({cell(Tag::array, 0xffffffff, 0, DType::int8), cell(Tag::extent)}, "abc"); }},
        {"an array of no dtype",
         [&] { return verdict({cell(Tag::array, 1, 0, DType::none), cell(Tag::extent, 0, 1)}, "abc"); }},
        {"an array of a dtype that does not exist",
         [&] { return verdict({cell(Tag::array, 1, 0, DType{16}), cell(Tag::extent, 0, 1)}, "abc"); }},
        {"an array beyond the heap",
         [&] { return verdict({cell(Tag::array, 1, 0, DType::int16), cell(Tag::extent, 0, 2)}, "abc"); }},
        {"a scalar array beyond the heap", [&] { return verdict({cell(Tag::array, 0, 0, DType::float64)}, "abc"); }},
        {"an array whose size overflows",
         [&] {
             return verdict({cell(Tag::array, 2, 0, DType::int32), cell(Tag::extent, 0, 1ull << 31),
                             cell(Tag::extent, 0, 1ull << 31)},
                            "abc");
         }},
        {"an array whose size overflows to nothing",
         [&] {
             return verdict({cell(Tag::array, 2, 0, DType::int8), cell(Tag::extent, 0, 1ull << 32),
                             cell(Tag::extent, 0, 1ull << 32)},
                            "abc");
         }},
        {"an empty array whose other extent is absurd",
         [&] {
             return verdict({cell(Tag::array, 2, 0, DType::int64), cell(Tag::extent, 0, 0), cell(Tag::extent, 0, max)},
                            "abc");
         }},
        {"bytes beyond the heap", [&] { return verdict({cell(Tag::bytes, 1, 0), cell(Tag::extent, 0, 4)}, "abc"); }},
        {"bytes without an extent", [&] { return verdict({cell(Tag::bytes, 1, 0)}, "abc"); }},
        {"a stride that leaves the payload in front",
         [&] {
             return verdict({cell(Tag::array, 1, 0, DType::int8, cell_leased | cell_strided), cell(Tag::extent, 0, 3),
                             cell(Tag::extent, 0, max), cell(Tag::extent, 0, 1)},
                            "", {{0, 9, 0, 0}});
         }},
        {"a stride that leaves the payload behind",
         [&] {
             return verdict({cell(Tag::array, 1, 0, DType::int16, cell_leased | cell_strided), cell(Tag::extent, 0, 3),
                             cell(Tag::extent, 0, 4), cell(Tag::extent, 0, 0)},
                            "", {{0, 9, 0, 0}});
         }},
        {"strides whose reach overflows",
         [&] {
             return verdict({cell(Tag::array, 2, 0, DType::int8, cell_leased | cell_strided), cell(Tag::extent, 0, 3),
                             cell(Tag::extent, 0, 3), cell(Tag::extent, 0, max >> 2), cell(Tag::extent, 0, max >> 2),
                             cell(Tag::extent, 0, 0)},
                            "", {{0, 9, 0, 0}});
         }},
        {"a start beyond the payload",
         [&] {
             return verdict({cell(Tag::array, 1, 0, DType::int8, cell_leased | cell_strided), cell(Tag::extent, 0, 1),
                             cell(Tag::extent, 0, 1), cell(Tag::extent, 0, 9)},
                            "", {{0, 9, 0, 0}});
         }},
        {"strides that are not there",
         [&] {
             return verdict({cell(Tag::array, 1, 0, DType::int8, cell_leased | cell_strided), cell(Tag::extent, 0, 1)},
                            "", {{0, 9, 0, 0}});
         }},
        {"strides of an array in the frame",
         [&] {
             return verdict({cell(Tag::array, 1, 0, DType::int8, cell_strided), cell(Tag::extent, 0, 1),
                             cell(Tag::extent, 0, 1), cell(Tag::extent, 0, 0)},
                            "abc");
         }},
        {"a type that is no text",
         [&] {
             return verdict({cell(Tag::array, 1, 0, DType::none, cell_typed), cell(Tag::extent, 0, 1),
                             cell(Tag::extent, 0, 1), cell(Tag::integer)},
                            "abc");
         }},
        {"a type beyond the heap",
         [&] {
             return verdict({cell(Tag::array, 1, 0, DType::none, cell_typed), cell(Tag::extent, 0, 1),
                             cell(Tag::extent, 0, 1), cell(Tag::text, 4, 0)},
                            "abc");
         }},
        {"a type beside a dtype",
         [&] {
             return verdict({cell(Tag::array, 1, 0, DType::int8, cell_typed), cell(Tag::extent, 0, 1),
                             cell(Tag::extent, 0, 1), cell(Tag::text, 1, 0)},
                            "abc");
         }},
        {"elements of a type that have no size",
         [&] {
             return verdict({cell(Tag::array, 1, 0, DType::none, cell_typed), cell(Tag::extent, 0, 1),
                             cell(Tag::extent, 0, 0), cell(Tag::text, 1, 0)},
                            "abc");
         }},
        {"a payload that is not there",
         [&] {
             return verdict({cell(Tag::array, 1, 1, DType::int8, cell_leased), cell(Tag::extent, 0, 1)}, "",
                            {{0, 9, 0, 0}});
         }},
        {"a payload that is too small",
         [&] {
             return verdict({cell(Tag::array, 1, 0, DType::int16, cell_leased), cell(Tag::extent, 0, 5)}, "",
                            {{0, 9, 0, 0}});
         }},
    };
    for (const auto& [what, verdict_of] : cases) {
        INFO(what);
        CHECK(verdict_of() == Status::corrupt);
    }
}

TEST_CASE("values at the edge of well-formedness are taken", "[wire]") {
    CHECK(verdict({}) == Status::ok);
    CHECK(verdict({cell(Tag::text, 3, 0)}, "abc") == Status::ok);
    CHECK(verdict({cell(Tag::text, 0, 3)}, "abc") == Status::ok);
    CHECK(verdict({cell(Tag::text, 17, 1, DType::none, cell_ascii)},
                  "\xff"
                  "0123456789abcdefg") == Status::ok);
    CHECK(verdict({cell(Tag::list, 0)}) == Status::ok);
    CHECK(verdict({cell(Tag::array, 1, 0, DType::int64), cell(Tag::extent, 0, 0)}) == Status::ok);
    CHECK(verdict({cell(Tag::array, 2, 0, DType::int64), cell(Tag::extent, 0, 0), cell(Tag::extent, 0, 1000)}) ==
          Status::ok);
    CHECK(verdict({cell(Tag::array, 1, 0, DType::clamped8, cell_leased), cell(Tag::extent, 0, 9)}, "",
                  {{0, 9, 0, 0}}) == Status::ok);
}

TEST_CASE("containers nest up to the limit and not beyond", "[wire]") {
    for (const Tag tag : {Tag::list, Tag::set, Tag::map, Tag::object}) {
        for (const std::uint32_t depth : {max_depth, max_depth + 1, max_depth + 1000}) {
            std::vector<Cell> cells;
            for (std::uint32_t i = 0; i < depth; ++i) {
                cells.push_back(cell(tag, 1));
                if (tag == Tag::map || tag == Tag::object) cells.push_back(cell(Tag::text));
            }
            cells.push_back(cell(Tag::null));
            CHECK(verdict(cells) == (depth <= max_depth ? Status::ok : Status::corrupt));
        }
    }
}

TEST_CASE("bytes that are no frame are refused", "[wire]") {
    Values values;
    values.text("text");
    values.integer(3);
    const Bytes good = written(draft_of(values));
    Draft out;
    for (std::size_t size = 0; size < good.size; ++size) {
        const Bytes part = [&] {
            Bytes bytes(size);
            if (size > 0) std::memcpy(bytes.data(), good.span().data(), size);
            return bytes;
        }();
        const Status status = read(part.span(), out);
        // Only the padding behind the last vector may be missing.
        CHECK((status == Status::corrupt || size >= good.size - 12));
    }
    for (const std::uint8_t filling : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
        Bytes bytes(128);
        std::memset(bytes.data(), filling, 128);
        CHECK(read(bytes.span(), out) == Status::corrupt);
    }
    CHECK(read({}, out) == Status::corrupt);
}

TEST_CASE("a kind or a status that does not exist is refused", "[wire]") {
    for (int value = 0; value < 256; ++value) {
        Draft draft{.kind = static_cast<Kind>(value), .id = 1};
        Draft out;
        CHECK((read(written(draft).span(), out) == Status::ok) ==
              (value >= 1 && value <= static_cast<int>(Kind::retired)));
        draft.kind = Kind::error;
        draft.status = static_cast<Status>(value);
        CHECK((read(written(draft).span(), out) == Status::ok) == (value <= static_cast<int>(Status::over_quota)));
    }
}

TEST_CASE("a call tells its activity, its credit and what is asked of its result", "[wire]") {
    const Draft call{.kind = Kind::call,
                     .target = wire::on_object,
                     .id = 3,
                     .activity = wire::activity_of(5, 9),
                     .number = 1024,
                     .flags = wire::frame_streams | wire::frame_blocks};
    Draft out;
    const Bytes bytes = written(call);
    REQUIRE(read(bytes.span(), out) == Status::ok);
    CHECK(out.target == wire::on_object);
    CHECK(out.activity == wire::activity_of(5, 9));
    CHECK(out.number == 1024);
    CHECK(out.flags == (wire::frame_streams | wire::frame_blocks));
}

TEST_CASE("activities of different calls and peers differ, and none is 0", "[wire]") {
    CHECK(wire::activity_of(0, 0) != 0);
    CHECK(wire::activity_of(0, 1) != wire::activity_of(1, 1));
    CHECK(wire::activity_of(63, 1) != wire::activity_of(63, 2));
}

TEST_CASE("a reference names its owner, and its frame says that it has one", "[wire]") {
    Values values;
    values.put(wire::reference(63, 0xffffffff, (std::uint64_t{1} << 56) - 1, wire::reference_callable));
    Draft draft = draft_of(values);
    Draft out;
    CHECK(read(written(draft).span(), out) == Status::corrupt);
    draft.flags = wire::frame_references;
    const Bytes bytes = written(draft);
    REQUIRE(read(bytes.span(), out) == Status::ok);
    CHECK(wire::owner_of(out.cells[0]) == 63);
    CHECK(out.cells[0].count == 0xffffffff);
    CHECK(wire::id_of(out.cells[0]) == (std::uint64_t{1} << 56) - 1);
    CHECK(out.cells[0].flags == wire::reference_callable);

    values.clear();
    values.put(wire::reference(64, 1, 1, 0));
    draft = draft_of(values);
    draft.flags = wire::frame_references;
    CHECK(read(written(draft).span(), out) == Status::corrupt);
}

TEST_CASE("an array may step through its payload, forwards and backwards", "[wire]") {
    Values values;
    const Handle payload{0, 24, 0, 0};
    const std::uint64_t shape[] = {2, 3};
    const std::int64_t strides[] = {-12, 4};
    values.array(DType::int16, cell_leased | cell_strided, values.payload(payload), shape);
    values.strides(strides, 12);
    values.integer(7);
    Draft draft = draft_of(values);
    const Bytes bytes = written(draft);
    Draft out;
    REQUIRE(read(bytes.span(), out) == Status::ok);
    const auto found = wire::array_shape(out.cells);
    CHECK(found.cells == 5);
    CHECK(found.item_bytes == 2);
    CHECK(found.start == 12);
    CHECK(static_cast<std::int64_t>(found.strides[0].bits) == -12);
    CHECK(out.cells[1 + found.cells].bits == 7);
}

TEST_CASE("an array of elements without a dtype carries their size and type", "[wire]") {
    Values values;
    const auto [room, where] = values.room(16);
    std::memset(room, 'x', 16);
    const std::uint64_t shape[] = {2};
    values.array(DType::none, cell_typed, where, shape);
    values.type(8, "<M8[ns]");
    const Bytes bytes = written(draft_of(values));
    Draft out;
    REQUIRE(read(bytes.span(), out) == Status::ok);
    const auto found = wire::array_shape(out.cells);
    CHECK(found.item_bytes == 8);
    REQUIRE(found.type != nullptr);
    CHECK(std::string_view(reinterpret_cast<const char*>(out.heap.data()) + found.type->bits, found.type->count) ==
          "<M8[ns]");
}

TEST_CASE("a slice has three values, a tuple as many as it says", "[wire]") {
    Values values;
    values.container(Tag::tuple, 2);
    values.integer(1);
    values.container(Tag::slice, 0);
    values.integer(1);
    values.null();
    Draft out;
    CHECK(read(written(draft_of(values)).span(), out) == Status::corrupt);
    values.integer(2);
    CHECK(read(written(draft_of(values)).span(), out) == Status::ok);
}

TEST_CASE("a table has a schema and as many batches as it says", "[wire]") {
    Values values;
    values.container(Tag::table, 2);
    values.container(Tag::list, 0);
    values.null();
    Draft out;
    CHECK(read(written(draft_of(values)).span(), out) == Status::corrupt);
    values.null();
    CHECK(read(written(draft_of(values)).span(), out) == Status::ok);
    values.clear();
    values.container(Tag::table, 0xffff'ffff);
    values.null();
    CHECK(read(written(draft_of(values)).span(), out) == Status::corrupt);
}

TEST_CASE("a pickle is made of bytes alone, and of one at least", "[wire]") {
    Draft out;
    const auto reads = [&out](std::uint32_t parts, auto... put) {
        Values values;
        values.container(Tag::pickle, parts);
        (put(values), ...);
        return read(written(draft_of(values)).span(), out) == Status::ok;
    };
    const auto bytes = [](Values& values) { values.bytes(0, values.room(3).second, 3); };
    const auto number = [](Values& values) { values.integer(1); };
    CHECK(reads(1, bytes));
    CHECK(reads(3, bytes, bytes, bytes));
    CHECK_FALSE(reads(0));
    CHECK_FALSE(reads(2, bytes));
    CHECK_FALSE(reads(1, number));
    CHECK_FALSE(reads(2, bytes, number));
}

TEST_CASE("vectors off their alignment are refused", "[wire]") {
    Values values;
    values.integer(3);
    Bytes bytes = written(draft_of(values));
    // The cells' offset, moved by 4: their length is then read from the vector of nothing's neighbourhood.
    std::uint32_t offset;
    std::memcpy(&offset, bytes.data() + 72, 4);
    offset += 4;
    std::memcpy(bytes.data() + 72, &offset, 4);
    const std::uint32_t one = 1;
    std::memcpy(bytes.data() + 72 + offset, &one, 4);
    Draft out;
    CHECK(read(bytes.span(), out) == Status::corrupt);
}

TEST_CASE("a value that turned out not to travel leaves nothing", "[wire]") {
    Values values;
    values.integer(1);
    const auto mark = values.mark();
    values.text("gone");
    values.payload({});
    values.room(100);
    values.rewind(mark);
    CHECK(values.cells().size() == 1);
    CHECK(values.heap().empty());
    CHECK(values.payloads().empty());
}

TEST_CASE("the size of an array is exact or an overflow", "[wire]") {
    const auto size_of = [](DType dtype, std::vector<std::uint64_t> shape, bool expect_overflow = false) {
        std::vector<Cell> extents;
        for (const auto length : shape) extents.push_back(cell(Tag::extent, 0, length));
        bool overflow = false;
        const auto bytes = array_bytes(dtype, extents, overflow);
        CHECK(overflow == expect_overflow);
        return bytes;
    };
    CHECK(size_of(DType::float64, {}) == 8);
    CHECK(size_of(DType::float64, {3, 4}) == 96);
    CHECK(size_of(DType::complex128, {0, 4}) == 0);
    CHECK(size_of(DType::uint8, {std::uint64_t{1} << 62}) == std::uint64_t{1} << 62);
    size_of(DType::uint8, {std::uint64_t{1} << 63}, true);
    size_of(DType::uint16, {std::uint64_t{1} << 63, 2}, true);
}

}  // namespace isthmus
