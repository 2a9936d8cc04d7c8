// Tables that have arrived.
#include "receive_table.hpp"

#include <cstring>

#include "errors.hpp"

namespace isthmus::python {

namespace {

using Is = ArrowLayout::Is;

constexpr std::int64_t most = std::int64_t{1} << 48;  // rows, or items in lists: what is more is no honest number

/// Whether bytes are what ArrowSchema.metadata points to, whose readers trust them: the number of pairs, and for each of their
/// texts its length and its bytes.
bool is_metadata(std::string_view bytes) {
    const auto take = [&bytes](std::int32_t& number) {
        if (bytes.size() < sizeof number) return false;
        std::memcpy(&number, bytes.data(), sizeof number);
        bytes.remove_prefix(sizeof number);
        return number >= 0;
    };
    std::int32_t pairs = 0;
    if (!take(pairs)) return false;
    for (std::int64_t texts = std::int64_t{pairs} * 2; texts > 0; --texts) {
        std::int32_t length = 0;
        if (!take(length) || static_cast<std::size_t>(length) > bytes.size()) return false;
        bytes.remove_prefix(static_cast<std::size_t>(length));
    }
    return true;
}

}  // namespace

Batch::~Batch() {
    for (Memory::Hold& hold : holds) memory->drop(hold);
}

/// Reads the values of one table off a decoder. Every buffer is checked against the lengths that the message tells; what the
/// offsets inside of a buffer say is checked at its end alone.
class TableReader {
public:
    explicit TableReader(Decoder& decoder) : decoder_(decoder) {}

    void schema(SchemaNode& into) {
        expect(wire::Tag::list, 6);
        into.format = text();
        into.name = text();
        into.flags = integer();
        if (const auto metadata = plain_buffer()) {
            std::string copy(metadata->begin(), metadata->end());
            if (!is_metadata(copy)) torn();
            into.metadata = std::move(copy);
        }
        const auto layout = layout_of(into.format);
        if (!layout) torn();
        into.layout = *layout;
        into.children.resize(expect(wire::Tag::list));
        const bool has_one_child = layout->is == Is::list || layout->is == Is::fixed_list;
        if (layout->is != Is::structure && into.children.size() != (has_one_child ? 1 : 0)) torn();
        for (SchemaNode& child : into.children) schema(child);
        if (is_null()) return;
        if (layout->is != Is::fixed) torn();
        into.dictionary = std::make_unique<SchemaNode>();
        schema(*into.dictionary);
    }

    std::shared_ptr<const Batch> batch(const SchemaNode& schema) {
        auto made = std::make_shared<Batch>();
        made->memory = decoder_.memory_;
        batch_ = made.get();
        array(schema, made->rows);
        return made;
    }

private:
    struct Buffer {
        const std::byte* data = nullptr;
        std::uint64_t bytes = 0;
        const std::byte* begin() const { return data; }
    };

    [[noreturn]] static void torn() { throw TornTable(); }

    void array(const SchemaNode& schema, ArrayNode& into) {
        expect(wire::Tag::list, 6);
        into.length = integer();
        into.null_count = integer();
        into.offset = integer();
        if (into.length < 0 || into.offset < 0 || into.length > most || into.offset > most) torn();
        if (into.null_count < -1 || into.null_count > into.length) torn();
        const std::int64_t all = into.offset + into.length;
        const std::uint32_t count = expect(wire::Tag::list);
        const ArrowLayout& layout = schema.layout;
        std::int64_t inside = all;  // values that a child must have
        if (layout.is == Is::fixed_list && __builtin_mul_overflow(all, layout.items, &inside)) torn();
        const auto exactly = [count](std::uint32_t wanted) {
            if (count != wanted) torn();
        };
        if (layout.has_bitmap() && count > 0) {
            const Buffer bitmap = buffer(into);
            if (bitmap.data != nullptr) enough(bitmap, all, 1);
            if (bitmap.data == nullptr) into.null_count = 0;
        }
        switch (layout.is) {
            case Is::nothing: exactly(0); break;
            case Is::fixed:
                exactly(2);
                enough(buffer(into), all, layout.bits);
                break;
            case Is::variable: {
                exactly(3);
                const std::int64_t end = last_offset(buffer(into), layout, all);
                enough(buffer(into), end, 8);
                break;
            }
            case Is::views:
                if (count < 2) torn();
                enough(buffer(into), all, 128);
                into.view_sizes.reserve(count);  // so that there is a buffer of sizes, also where there are none
                for (std::uint32_t i = 2; i < count; ++i)
                    into.view_sizes.push_back(static_cast<std::int64_t>(buffer(into).bytes));
                into.buffers.push_back(into.view_sizes.data());
                break;
            case Is::list:
                exactly(2);
                inside = last_offset(buffer(into), layout, all);
                break;
            case Is::fixed_list:
            case Is::structure: exactly(1); break;
        }
        if (expect(wire::Tag::list) != schema.children.size()) torn();
        into.children.resize(schema.children.size());
        for (std::size_t i = 0; i < into.children.size(); ++i) {
            array(schema.children[i], into.children[i]);
            if (into.children[i].length < inside) torn();
        }
        if (schema.dictionary == nullptr) {
            if (!is_null()) torn();
            return;
        }
        into.dictionary = std::make_unique<ArrayNode>();
        array(*schema.dictionary, *into.dictionary);
    }

    static void enough(const Buffer& buffer, std::int64_t count, std::uint64_t bits) {
        std::uint64_t all = 0;
        if (__builtin_mul_overflow(static_cast<std::uint64_t>(count), bits, &all) || buffer.bytes < (all + 7) / 8)
            torn();
    }

    static std::int64_t last_offset(const Buffer& offsets, const ArrowLayout& layout, std::int64_t count) {
        enough(offsets, count + 1, layout.offset_bytes() * 8);
        const std::int64_t last = offset_at(offsets.data, layout, count);
        if (last < 0) torn();
        return last;
    }

    const wire::Cell& next() { return decoder_.frame_.cells[decoder_.at_++]; }

    std::uint32_t expect(wire::Tag tag) {
        const wire::Cell& cell = next();
        if (cell.tag != tag) torn();
        return cell.count;
    }
    void expect(wire::Tag tag, std::uint32_t count) {
        if (expect(tag) != count) torn();
    }

    std::string text() {
        const wire::Cell& cell = next();
        if (cell.tag != wire::Tag::text) torn();
        return {reinterpret_cast<const char*>(decoder_.frame_.heap.data()) + cell.bits, cell.count};
    }

    std::int64_t integer() {
        const wire::Cell& cell = next();
        if (cell.tag != wire::Tag::integer) torn();
        return static_cast<std::int64_t>(cell.bits);
    }

    /// Steps over a null; whether there was one.
    bool is_null() {
        const bool found = decoder_.peek().tag == wire::Tag::null;
        if (found) ++decoder_.at_;
        return found;
    }

    /// Where the next buffer's bytes are, and the payload that they are in, if any.
    std::pair<Buffer, const wire::Cell*> next_buffer() {
        if (is_null()) return {};
        const auto cells = decoder_.frame_.cells.subspan(decoder_.at_);
        const wire::Cell& cell = cells[0];
        if (cell.tag != wire::Tag::array && cell.tag != wire::Tag::bytes) torn();
        const wire::ArrayShape shape = wire::array_shape(cells);
        if (shape.extents.size() != 1 || !shape.strides.empty()) torn();
        bool overflow = false;
        const std::uint64_t bytes = wire::array_bytes(shape.item_bytes, shape.extents, overflow);
        decoder_.at_ += 1 + shape.cells;
        const bool is_leased = (cell.flags & wire::cell_leased) != 0;
        const std::byte* data = is_leased ? decoder_.memory_->at(decoder_.frame_.payloads[cell.bits])
                                          : decoder_.frame_.heap.data() + (bytes > 0 ? cell.bits : 0);
        return {{data, bytes}, &cell};
    }

    /// A buffer that is looked at now and not kept.
    std::optional<std::string_view> plain_buffer() {
        const auto [found, cell] = next_buffer();
        if (cell == nullptr) return {};
        return std::string_view(reinterpret_cast<const char*>(found.data), found.bytes);
    }

    /// A buffer that the batch keeps: leased, or a copy when it came in the message.
    Buffer buffer(ArrayNode& into) {
        auto [found, cell] = next_buffer();
        if (cell != nullptr && (cell->flags & wire::cell_leased) != 0) {
            batch_->holds.push_back({decoder_.take(cell->bits)});
            if (!batch_->memory->hold(batch_->holds.back())) {
                batch_->holds.pop_back();
                throw Error(Status::closed, "the bus was left");
            }
        } else if (cell != nullptr) {
            batch_->copies.push_back(std::make_unique<std::byte[]>(found.bytes + 1));
            if (found.bytes > 0) std::memcpy(batch_->copies.back().get(), found.data, found.bytes);
            found.data = batch_->copies.back().get();
        }
        into.buffers.push_back(found.data);
        return found;
    }

    Decoder& decoder_;
    Batch* batch_ = nullptr;
};

PyObject* Decoder::table(const wire::Cell& cell) {
    auto parts = std::make_shared<TableParts>();
    try {
        TableReader reader(*this);
        auto schema = std::make_shared<SchemaNode>();
        reader.schema(*schema);
        if (schema->layout.is != Is::structure) throw TornTable();
        for (std::uint32_t i = 0; i < cell.count; ++i) parts->batches.push_back(reader.batch(*schema));
        parts->schema = std::move(schema);
    } catch (const TornTable&) {
        PyErr_SetString(PyExc_ValueError, "a table has arrived whose parts do not fit one another");
        return nullptr;
    } catch (const Error& error) {
        raise(state_, error.status(), error.what());
        return nullptr;
    }
    const Ref table(new_table(state_, std::move(parts)));
    const Ref module(table ? PyImport_ImportModule("isthmus.tables") : nullptr);
    return module ? PyObject_CallMethod(module.get(), "table_from", "O", table.get()) : nullptr;
}

}  // namespace isthmus::python
