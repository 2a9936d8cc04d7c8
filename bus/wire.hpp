// Frames as bytes: encode, verify, view. The room that knows FlatBuffers.
//
// schemas/frame.fbs is the format. A value is a run of cells in preorder:
//
//   tag      count          bits                       followed by
//   null     -              -
//   boolean  -              0 or 1
//   integer  -              two's complement
//   real     -              IEEE 754 binary64
//   bigint   bytes          offset in heap             two's complement, little-endian
//   text     bytes          offset in heap             UTF-8, where lone surrogates may stand (WTF-8)
//   bytes    -              as array                   one extent
//   list     items          -                          that many values
//   object   entries        -                          that many pairs: a text, a value
//   map      entries        -                          that many pairs of values
//   set      items          -                          that many values
//   date     -              binary64: ms since 1970
//   array    dimensions     offset in heap, or index   that many extents; with cell_strided as many strides in
//                           in payloads (cell_leased)  bytes and the first element's offset, all as extents;
//                                                      with cell_typed the bytes of an element, as an extent, and
//                                                      a text, its type as numpy writes it
//   extent   -              length of one dimension
//   reference generation    owner's slot << 56 | id    -
//   slice    -              -                          three values: start, stop, step
//   tuple    items          -                          that many values; a list where there are no tuples
//   table    batches        -                          its schema, then that many batches: docs/protocol.md, Tables
//   pickle   parts          -                          that many bytes: the stream of Python's pickle 5, then its
//                                                      buffers; only for a peer that asked for it (layout::Peer)
//
// An array's elements lie in C order, in Fortran order with cell_fortran, or anywhere in their payload with cell_strided. A reference names an object that stays with its
// owner, the peer of that slot and generation; bus/lending.hpp tells how long it lives.
//
// An activity is what one call leads to: a call that is made while another is being performed carries on the other's activity,
// or, where that has none, activity_of(the caller's slot, the other's id). So who blocks in a call knows which calls to perform
// meanwhile: those of its own activity.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "bus/arena.hpp"
#include "bus/status.hpp"

namespace isthmus::wire {

enum class Kind : std::uint8_t { call = 1, post, reply, error, cancel, item, credit, release, share, retire, retired };

enum class Tag : std::uint8_t {
    null,
    boolean,
    integer,
    real,
    bigint,
    text,
    bytes,
    list,
    object,
    map,
    set,
    date,
    array,
    extent,
    reference,
    slice,
    tuple,
    table,
    pickle
};

enum class DType : std::uint8_t {
    none,
    boolean,
    int8,
    uint8,
    int16,
    uint16,
    int32,
    uint32,
    int64,
    uint64,
    float16,
    float32,
    float64,
    complex64,
    complex128,
    clamped8,  // JavaScript's Uint8ClampedArray; a uint8 everywhere else
};

/// Bytes of one element; 0 for what is no dtype.
constexpr std::uint32_t item_bytes(DType dtype) {
    constexpr std::uint8_t sizes[] = {0, 1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8, 8, 16, 1};
    const auto index = static_cast<std::size_t>(dtype);
    return index < sizeof sizes ? sizes[index] : 0;
}

inline constexpr std::uint16_t cell_leased = 1;    // the elements are in the arena: bits is an index in payloads
inline constexpr std::uint16_t cell_fortran = 2;   // the first dimension varies fastest
inline constexpr std::uint16_t cell_ascii = 4;     // every byte of the text is below 128
inline constexpr std::uint16_t cell_moved = 8;     // the receiver may write
inline constexpr std::uint16_t cell_strided = 32;  // of a leased array: where each dimension's next element is
inline constexpr std::uint16_t cell_typed = 64;    // of an array whose elements have no DType: strings, dates, records
inline constexpr std::uint16_t cell_kwargs = 16;   // on the object that closes a call: its named arguments

inline constexpr std::uint16_t reference_callable = 1;   // can be called
inline constexpr std::uint16_t reference_iterable = 2;   // a stream: an iterator or an async iterator
inline constexpr std::uint16_t reference_async = 4;      // calling it, or taking its items, does not block its owner
inline constexpr std::uint16_t reference_exception = 8;  // can be raised

inline constexpr std::uint16_t frame_streams =
    1;  // of a call: its result is iterated, and its items are sent one by one
inline constexpr std::uint16_t frame_blocks = 2;  // of a call: the thread of the caller's peer waits for it
inline constexpr std::uint16_t frame_keeps = 4;   // of a call: its result stays where it is, and a reference is sent
inline constexpr std::uint16_t frame_references = 8;  // there are references among the cells
inline constexpr std::uint16_t frame_lends = 16;      // of a call: tables in its result stay where they are

/// One node of a value; the same 16 bytes in a frame and outside it.
struct Cell {
    Tag tag = Tag::null;
    DType dtype = DType::none;
    std::uint16_t flags = 0;
    std::uint32_t count = 0;
    std::uint64_t bits = 0;
};
static_assert(sizeof(Cell) == 16 && sizeof(Handle) == 24);

// Draft::target, when it is no index of an export.
inline constexpr std::uint32_t name_only = 0xffffffff;  // the export is looked up by its name
inline constexpr std::uint32_t on_object =
    0xfffffffe;  // the first value, a reference to the callee's own, is called with the rest
inline constexpr std::uint32_t operation = 0xfffffffd;  // (subject, steps, …): docs/protocol.md lists the steps

inline constexpr std::uint32_t max_depth = 128;          // of nested containers
inline constexpr std::uint64_t max_bytes = 0x7fff'fff8;  // of a frame: FlatBuffers counts in 31 bits

inline constexpr std::uint32_t id_bits = 56;  // of an object, in a reference

/// A cell that names an object of a peer.
constexpr Cell reference(std::uint32_t slot, std::uint32_t generation, std::uint64_t id, std::uint16_t flags) {
    return {Tag::reference, DType::none, flags, generation, std::uint64_t{slot} << id_bits | id};
}
constexpr std::uint32_t owner_of(const Cell& reference) {
    return static_cast<std::uint32_t>(reference.bits >> id_bits);
}
constexpr std::uint64_t id_of(const Cell& reference) { return reference.bits & ((std::uint64_t{1} << id_bits) - 1); }

/// The activity of the calls that are made while call `id` of the peer in `slot` is being performed, if it has none itself.
constexpr std::uint64_t activity_of(std::uint32_t slot, std::uint64_t id) {
    constexpr std::uint32_t bits = 57;
    return std::uint64_t{slot + 1} << bits | (id & ((std::uint64_t{1} << bits) - 1));
}

/// What a frame is made of, before or after it is bytes. All spans are borrowed.
struct Draft {
    Kind kind = Kind::call;
    Status status = Status::ok;
    std::uint32_t target = name_only;
    std::uint64_t id = 0;
    std::uint64_t deadline = 0;  // CLOCK_MONOTONIC nanoseconds; 0: none
    std::uint64_t activity = 0;
    std::uint32_t number = 0;
    std::uint16_t flags = 0;
    std::span<const Cell> cells;
    std::span<const std::byte> heap;
    std::span<const Handle> payloads;
    std::string_view name;
};

/// Exact number of bytes that write needs.
std::uint64_t size(const Draft& draft);

/// Encodes into `out`, 8-byte aligned, of size(draft) bytes. One forward pass, nothing allocated: every frame has the same
/// table and the same vtable, so the head is a template and only numbers and vectors are filled in. What comes out is an
/// ordinary FlatBuffers buffer for the generated code of any language.
void write(const Draft& draft, std::byte* out);

/// Verifies a private, 8-byte aligned copy of a frame and views it. corrupt when the bytes are no frame, or when its values
/// are not well formed: a text outside the heap, or marked as ascii and not so, a container with too few cells, an array
/// whose extents don't fit its bytes, nesting beyond max_depth, a kind, status or tag that does not exist.
Status read(std::span<const std::byte> bytes, Draft& out);

/// The cells that follow an array's own: its extents, strides and type.
struct ArrayShape {
    std::span<const Cell> extents;
    std::span<const Cell> strides;  // in bytes, signed; empty: C or Fortran order
    std::uint64_t start = 0;        // of the first element in the payload, in bytes
    std::uint64_t item_bytes = 0;   // of an element
    const Cell* type = nullptr;     // a text; null: the cell's dtype
    std::size_t cells = 0;          // how many there are of all these
};
/// Of a well-formed array or bytes, the first of whose cells `cells` begins with.
ArrayShape array_shape(std::span<const Cell> cells);

/// The number of elements times their size; 0 with `overflow` set when it does not fit 63 bits.
std::uint64_t array_bytes(DType dtype, std::span<const Cell> extents, bool& overflow);
std::uint64_t array_bytes(std::uint64_t item_bytes, std::span<const Cell> extents, bool& overflow);

/// Collects a value's cells in private memory, for a Draft. Reused from call to call, it stops allocating.
class Values {
public:
    void clear() {
        cells_.clear();
        heap_.clear();
        payloads_.clear();
    }
    void put(const Cell& cell) { cells_.push_back(cell); }
    void null() { put({Tag::null, DType::none, 0, 0, 0}); }
    void boolean(bool value) { put({Tag::boolean, DType::none, 0, 0, value}); }
    void integer(std::int64_t value) { put({Tag::integer, DType::none, 0, 0, static_cast<std::uint64_t>(value)}); }
    void real(double value) { put({Tag::real, DType::none, 0, 0, bits_of(value)}); }
    void date(double milliseconds) { put({Tag::date, DType::none, 0, 0, bits_of(milliseconds)}); }
    void text(std::string_view utf8, bool ascii = false);
    void bigint(std::span<const std::byte> two_complement);
    void container(Tag tag, std::uint32_t count) { put({tag, DType::none, 0, count, 0}); }
    /// Follow array(): where its elements are, when they are not one after the other; what they are, when they have no dtype.
    void strides(std::span<const std::int64_t> bytes, std::uint64_t start);
    void type(std::uint64_t item_bytes, std::string_view name);
    /// An array's cell and extents. The elements are `where` in the heap (from room()) or, with cell_leased, in payloads.
    void array(DType dtype, std::uint16_t flags, std::uint64_t where, std::span<const std::uint64_t> shape);
    void bytes(std::uint16_t flags, std::uint64_t where, std::uint64_t count);
    /// 8-byte aligned room in the heap, and its offset; the pointer holds until the next member is called.
    std::pair<std::byte*, std::uint64_t> room(std::uint64_t bytes);
    std::uint64_t payload(const Handle& handle) {
        payloads_.push_back(handle);
        return payloads_.size() - 1;
    }

    std::span<const Cell> cells() const { return cells_; }
    std::span<const std::byte> heap() const { return heap_; }
    std::span<const Handle> payloads() const { return payloads_; }
    /// Forgets what came after a mark, so that a value that turned out not to travel leaves nothing.
    struct Mark {
        std::size_t cells, heap, payloads;
    };
    Mark mark() const { return {cells_.size(), heap_.size(), payloads_.size()}; }
    void rewind(const Mark& mark);

private:
    static std::uint64_t bits_of(double value);
    std::vector<Cell> cells_;
    std::vector<std::byte> heap_;
    std::vector<Handle> payloads_;
};

}  // namespace isthmus::wire
