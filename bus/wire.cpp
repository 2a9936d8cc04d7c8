#include "bus/wire.hpp"

#include <flatbuffers/flatbuffers.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "frame_generated.h"

namespace isthmus::wire {

static_assert(std::endian::native == std::endian::little, "frames and cells are little-endian and used in place");
static_assert(sizeof(fbs::Cell) == sizeof(Cell) && alignof(fbs::Cell) == alignof(Cell));
static_assert(sizeof(fbs::Payload) == sizeof(Handle) && alignof(fbs::Payload) == alignof(Handle));

namespace {

// The head of every frame. Offsets in FlatBuffers count from where they are written; a vtable's entries count from the
// table's start. Fields as in schemas/frame.fbs: id, deadline, activity, target, number, kind, status, flags, cells, heap,
// payloads, name.
struct Head {
    std::uint32_t root;
    std::uint16_t vtable_bytes;
    std::uint16_t table_bytes;
    std::uint16_t fields[12];
    std::int32_t to_vtable;
    std::uint32_t target;
    std::uint64_t id;
    std::uint64_t deadline;
    std::uint64_t activity;
    std::uint8_t kind;
    std::uint8_t status;
    std::uint16_t flags;
    std::uint32_t number;
    std::uint32_t cells, heap, payloads, name;
    std::uint32_t nothing;  // the vector of length 0 that absent ones point at
};
constexpr std::uint32_t table = offsetof(Head, to_vtable);
constexpr std::uint16_t in_table(std::size_t offset) { return static_cast<std::uint16_t>(offset - table); }

constexpr Head head_template{
    .root = table,
    .vtable_bytes = 4 + 2 * 12,
    .table_bytes = in_table(offsetof(Head, nothing)),
    .fields = {in_table(offsetof(Head, id)), in_table(offsetof(Head, deadline)), in_table(offsetof(Head, activity)),
               in_table(offsetof(Head, target)), in_table(offsetof(Head, number)), in_table(offsetof(Head, kind)),
               in_table(offsetof(Head, status)), in_table(offsetof(Head, flags)), in_table(offsetof(Head, cells)),
               in_table(offsetof(Head, heap)), in_table(offsetof(Head, payloads)), in_table(offsetof(Head, name))},
    .to_vtable = table - offsetof(Head, vtable_bytes),
    .target = 0,
    .id = 0,
    .deadline = 0,
    .activity = 0,
    .kind = 0,
    .status = 0,
    .flags = 0,
    .number = 0,
    .cells = offsetof(Head, nothing) - offsetof(Head, cells),
    .heap = offsetof(Head, nothing) - offsetof(Head, heap),
    .payloads = offsetof(Head, nothing) - offsetof(Head, payloads),
    .name = offsetof(Head, nothing) - offsetof(Head, name),
    .nothing = 0,
};
static_assert(offsetof(Head, id) % 8 == 0);
constexpr std::uint64_t head_bytes = offsetof(Head, nothing) + 4;
static_assert(head_bytes % 8 == 4, "a vector's length here puts its elements on 8");

constexpr std::uint64_t up_to_8(std::uint64_t bytes) { return (bytes + 7) & ~std::uint64_t{7}; }

/// Each vector: its length at 4 modulo 8, then its elements, then padding to 4 modulo 8 again.
constexpr std::uint64_t vector_bytes(std::uint64_t elements_bytes) {
    return elements_bytes == 0 ? 0 : 4 + up_to_8(elements_bytes) + 4;
}

/// Well-formedness of the values in a verified frame, in one pass without recursion.
class CellCheck {
public:
    explicit CellCheck(const Draft& frame) : frame_(frame) {}

    bool all() {
        struct Open {
            std::uint64_t to_come;  // values, until the container is complete
            bool keyed;             // an object: every other value is a text
            bool of_bytes;          // a pickle: every value is bytes
        };
        Open open[max_depth];
        std::uint32_t depth = 0;
        for (std::size_t i = 0; i < frame_.cells.size(); ++i) {
            const Cell& cell = frame_.cells[i];
            if (depth > 0) {
                Open& outer = open[depth - 1];
                if (outer.keyed && outer.to_come % 2 == 0 && cell.tag != Tag::text) return false;
                if (outer.of_bytes && cell.tag != Tag::bytes) return false;
                --outer.to_come;
            }
            std::uint64_t inside = 0;
            switch (cell.tag) {
                case Tag::null:
                case Tag::boolean:
                case Tag::integer:
                case Tag::real:
                case Tag::date: break;
                case Tag::bigint:
                case Tag::text:
                    if (!in_heap(cell.bits, cell.count)) return false;
                    if (cell.flags & cell_ascii && !is_ascii(frame_.heap.subspan(cell.bits, cell.count))) return false;
                    break;
                case Tag::list:
                case Tag::tuple:
                case Tag::set: inside = cell.count; break;
                case Tag::object:
                case Tag::map: inside = std::uint64_t{cell.count} * 2; break;
                case Tag::slice: inside = 3; break;
                case Tag::table: inside = std::uint64_t{cell.count} + 1; break;
                case Tag::pickle:
                    inside = cell.count;
                    if (inside == 0) return false;
                    break;
                case Tag::reference:
                    if ((frame_.flags & frame_references) == 0 || owner_of(cell) >= layout::max_peers) return false;
                    break;
                case Tag::bytes:
                case Tag::array:
                    if (!has_shape(frame_.cells.subspan(i)) || !array_fits(cell, array_shape(frame_.cells.subspan(i))))
                        return false;
                    i += array_shape(frame_.cells.subspan(i)).cells;
                    break;
                default: return false;
            }
            if (inside > frame_.cells.size()) return false;
            if (inside > 0) {
                if (depth == max_depth) return false;
                open[depth++] = {inside, cell.tag == Tag::object, cell.tag == Tag::pickle};
            }
            while (depth > 0 && open[depth - 1].to_come == 0) --depth;
        }
        return depth == 0;
    }

private:
    bool in_heap(std::uint64_t offset, std::uint64_t bytes) const {
        return offset <= frame_.heap.size() && bytes <= frame_.heap.size() - offset;
    }

    /// Readers copy such a text without decoding it.
    static bool is_ascii(std::span<const std::byte> text) {
        std::uint64_t all = 0, word;
        for (; text.size() >= sizeof word; text = text.subspan(sizeof word)) {
            std::memcpy(&word, text.data(), sizeof word);
            all |= word;
        }
        for (const std::byte byte : text) all |= static_cast<std::uint64_t>(byte);
        return (all & 0x8080808080808080) == 0;
    }

    /// Whether the cells that array_shape takes are there, and of the right kinds.
    bool has_shape(std::span<const Cell> cells) const {
        const Cell& head = cells[0];
        std::uint64_t extents = head.tag == Tag::bytes ? 1 : head.count;
        if (head.flags & cell_strided) extents = 2 * extents + 1;
        const std::uint64_t type = head.flags & cell_typed ? 2 : 0;
        if (extents + type > cells.size() - 1) return false;
        if (type != 0) {
            const Cell& text = cells[1 + extents + 1];
            if (head.tag == Tag::bytes || head.dtype != DType::none || text.tag != Tag::text ||
                !in_heap(text.bits, text.count))
                return false;
            ++extents;
        }
        for (const Cell& extent : cells.subspan(1, extents)) {
            if (extent.tag != Tag::extent) return false;
        }
        return true;
    }

    bool array_fits(const Cell& cell, const ArrayShape& shape) const {
        if (shape.item_bytes == 0) return false;
        bool overflow = false;
        const std::uint64_t bytes = array_bytes(shape.item_bytes, shape.extents, overflow);
        if (overflow) return false;
        if ((cell.flags & cell_leased) == 0) return shape.strides.empty() && in_heap(cell.bits, bytes);
        if (cell.bits >= frame_.payloads.size()) return false;
        const std::uint64_t room = frame_.payloads[cell.bits].bytes;
        if (shape.strides.empty() || bytes == 0) return room >= bytes;
        // The first and the last byte that an element may have.
        constexpr std::int64_t most = std::int64_t{1} << 62;
        std::int64_t first = static_cast<std::int64_t>(shape.start), last = first;
        if (shape.start > most || shape.item_bytes > room) return false;
        for (std::size_t i = 0; i < shape.extents.size(); ++i) {
            std::int64_t reach = 0;
            if (__builtin_mul_overflow(static_cast<std::int64_t>(shape.extents[i].bits - 1),
                                       static_cast<std::int64_t>(shape.strides[i].bits), &reach) ||
                __builtin_add_overflow(reach < 0 ? first : last, reach, reach < 0 ? &first : &last))
                return false;
        }
        return first >= 0 && last <= static_cast<std::int64_t>(std::min<std::uint64_t>(room - shape.item_bytes, most));
    }

    const Draft& frame_;
};

/// The verifier bounds a vector but does not align it.
template <class To, class From>
bool view(const flatbuffers::Vector<From>* vector, std::span<const To>& out) {
    out = {};
    if (vector == nullptr || vector->size() == 0) return true;
    if (reinterpret_cast<std::uintptr_t>(vector->Data()) % alignof(To) != 0) return false;
    out = {reinterpret_cast<const To*>(vector->Data()), vector->size()};
    return true;
}

/// The fields of any frame, whoever made it. False when it is none.
bool view_any(std::span<const std::byte> bytes, Draft& out) {
    flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    if (!verifier.VerifyBuffer<fbs::Frame>(nullptr)) return false;
    const auto* frame = flatbuffers::GetRoot<fbs::Frame>(bytes.data());
    out.kind = static_cast<Kind>(frame->kind());
    out.status = static_cast<Status>(frame->status());
    out.target = frame->target();
    out.id = frame->id();
    out.deadline = frame->deadline();
    out.activity = frame->activity();
    out.number = frame->number();
    out.flags = frame->flags();
    std::span<const char> name;
    if (!view(frame->cells(), out.cells) || !view(frame->heap(), out.heap) || !view(frame->payloads(), out.payloads) ||
        !view(frame->name(), name))
        return false;
    out.name = {name.data(), name.size()};
    return true;
}

/// Whether the frame's table and vtable are the template's, so that the fields are where `write` puts them.
bool has_our_head(std::span<const std::byte> bytes) {
    constexpr std::size_t constant = offsetof(Head, target);
    return bytes.size() >= head_bytes && std::memcmp(bytes.data(), &head_template, constant) == 0;
}

/// What view and the verifier do, for a vector of a frame with our head.
template <class To>
bool view_vector(std::span<const std::byte> bytes, std::size_t field, std::uint32_t offset, std::span<const To>& out) {
    const std::uint64_t at = field + std::uint64_t{offset};
    if (offset == 0 || at % 4 != 0 || at + 4 > bytes.size()) return false;
    std::uint32_t count;
    std::memcpy(&count, bytes.data() + at, sizeof count);
    out = {};
    if (count == 0) return true;
    const std::byte* elements = bytes.data() + at + 4;
    if (std::uint64_t{count} * sizeof(To) > bytes.size() - at - 4 ||
        reinterpret_cast<std::uintptr_t>(elements) % alignof(To) != 0)
        return false;
    out = {reinterpret_cast<const To*>(elements), count};
    return true;
}

/// The fields of a frame with our head. False when a vector is out of bounds.
bool view_ours(std::span<const std::byte> bytes, Draft& out) {
    Head head;
    std::memcpy(&head, bytes.data(), head_bytes);
    out.kind = static_cast<Kind>(head.kind);
    out.status = static_cast<Status>(head.status);
    out.target = head.target;
    out.id = head.id;
    out.deadline = head.deadline;
    out.activity = head.activity;
    out.number = head.number;
    out.flags = head.flags;
    std::span<const char> name;
    if (!view_vector(bytes, offsetof(Head, cells), head.cells, out.cells) ||
        !view_vector(bytes, offsetof(Head, heap), head.heap, out.heap) ||
        !view_vector(bytes, offsetof(Head, payloads), head.payloads, out.payloads) ||
        !view_vector(bytes, offsetof(Head, name), head.name, name))
        return false;
    out.name = {name.data(), name.size()};
    return true;
}

}  // namespace

std::uint64_t size(const Draft& draft) {
    return head_bytes + vector_bytes(draft.cells.size_bytes()) + vector_bytes(draft.heap.size()) +
           vector_bytes(draft.payloads.size_bytes()) + vector_bytes(draft.name.size());
}

void write(const Draft& draft, std::byte* out) {
    std::memcpy(out, &head_template, head_bytes);
    const auto put = [out](std::size_t at, auto value) { std::memcpy(out + at, &value, sizeof value); };
    put(offsetof(Head, id), draft.id);
    put(offsetof(Head, deadline), draft.deadline);
    put(offsetof(Head, target), draft.target);
    put(offsetof(Head, kind), static_cast<std::uint8_t>(draft.kind));
    put(offsetof(Head, status), static_cast<std::uint8_t>(draft.status));
    put(offsetof(Head, activity), draft.activity);
    put(offsetof(Head, flags), draft.flags);
    put(offsetof(Head, number), draft.number);
    std::size_t end = head_bytes;
    const auto vector = [&](std::size_t field, const void* elements, std::size_t bytes, std::size_t count) {
        if (count == 0) return;
        put(field, static_cast<std::uint32_t>(end - field));
        put(end, static_cast<std::uint32_t>(count));
        std::memcpy(out + end + 4, elements, bytes);
        const std::size_t padded = up_to_8(bytes) + 4;
        std::memset(out + end + 4 + bytes, 0, padded - bytes);
        end += 4 + padded;
    };
    vector(offsetof(Head, cells), draft.cells.data(), draft.cells.size_bytes(), draft.cells.size());
    vector(offsetof(Head, heap), draft.heap.data(), draft.heap.size(), draft.heap.size());
    vector(offsetof(Head, payloads), draft.payloads.data(), draft.payloads.size_bytes(), draft.payloads.size());
    vector(offsetof(Head, name), draft.name.data(), draft.name.size(), draft.name.size());
}

Status read(std::span<const std::byte> bytes, Draft& out) {
    if (bytes.size() > max_bytes) return Status::corrupt;
    if (!(has_our_head(bytes) ? view_ours(bytes, out) : view_any(bytes, out))) return Status::corrupt;
    if (out.kind < Kind::call || out.kind > Kind::retired || out.status > Status::over_quota) return Status::corrupt;
    return CellCheck(out).all() ? Status::ok : Status::corrupt;
}

ArrayShape array_shape(std::span<const Cell> cells) {
    const Cell& head = cells[0];
    const std::size_t dimensions = head.tag == Tag::bytes ? 1 : head.count;
    ArrayShape shape;
    shape.extents = cells.subspan(1, dimensions);
    shape.cells = dimensions;
    shape.item_bytes = item_bytes(head.tag == Tag::bytes ? DType::uint8 : head.dtype);
    if (head.flags & cell_strided) {
        shape.strides = cells.subspan(1 + shape.cells, dimensions);
        shape.cells += dimensions + 1;
        shape.start = cells[shape.cells].bits;
    }
    if (head.flags & cell_typed) {
        shape.item_bytes = cells[shape.cells + 1].bits;
        shape.type = &cells[shape.cells + 2];
        shape.cells += 2;
    }
    return shape;
}

std::uint64_t array_bytes(DType dtype, std::span<const Cell> extents, bool& overflow) {
    return array_bytes(item_bytes(dtype), extents, overflow);
}

std::uint64_t array_bytes(std::uint64_t bytes, std::span<const Cell> extents, bool& overflow) {
    bool empty = false;
    for (const Cell& extent : extents) {
        if (extent.bits == 0) empty = true;
        if (extent.bits != 0 && __builtin_mul_overflow(bytes, extent.bits, &bytes)) overflow = true;
    }
    if (bytes > std::uint64_t{1} << 62) overflow = true;
    return empty || overflow ? 0 : bytes;
}

std::uint64_t Values::bits_of(double value) { return std::bit_cast<std::uint64_t>(value); }

void Values::text(std::string_view utf8, bool ascii) {
    put({Tag::text, DType::none, ascii ? cell_ascii : std::uint16_t{0}, static_cast<std::uint32_t>(utf8.size()),
         heap_.size()});
    const auto* bytes = reinterpret_cast<const std::byte*>(utf8.data());
    heap_.insert(heap_.end(), bytes, bytes + utf8.size());
}

void Values::bigint(std::span<const std::byte> two_complement) {
    put({Tag::bigint, DType::none, 0, static_cast<std::uint32_t>(two_complement.size()), heap_.size()});
    heap_.insert(heap_.end(), two_complement.begin(), two_complement.end());
}

void Values::array(DType dtype, std::uint16_t flags, std::uint64_t where, std::span<const std::uint64_t> shape) {
    put({Tag::array, dtype, flags, static_cast<std::uint32_t>(shape.size()), where});
    for (const std::uint64_t length : shape) put({Tag::extent, DType::none, 0, 0, length});
}

void Values::strides(std::span<const std::int64_t> bytes, std::uint64_t start) {
    for (const std::int64_t stride : bytes) put({Tag::extent, DType::none, 0, 0, static_cast<std::uint64_t>(stride)});
    put({Tag::extent, DType::none, 0, 0, start});
}

void Values::type(std::uint64_t item_bytes, std::string_view name) {
    put({Tag::extent, DType::none, 0, 0, item_bytes});
    text(name);
}

void Values::bytes(std::uint16_t flags, std::uint64_t where, std::uint64_t count) {
    put({Tag::bytes, DType::uint8, flags, 1, where});
    put({Tag::extent, DType::none, 0, 0, count});
}

std::pair<std::byte*, std::uint64_t> Values::room(std::uint64_t bytes) {
    const std::uint64_t at = up_to_8(heap_.size());
    heap_.resize(at + bytes);
    return {heap_.data() + at, at};
}

void Values::rewind(const Mark& mark) {
    cells_.resize(mark.cells);
    heap_.resize(mark.heap);
    payloads_.resize(mark.payloads);
}

}  // namespace isthmus::wire
