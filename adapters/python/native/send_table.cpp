// Tables on their way out.
#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <vector>

#include "arrays.hpp"
#include "arrow.hpp"
#include "errors.hpp"

namespace isthmus::python {

namespace {

using Outcome = TableSent::Outcome;
using Is = ArrowLayout::Is;

constexpr const char* source_name = "isthmus.table";

/// What a table's buffers belong to.
struct Source {
    ArrowSchema schema{};
    std::vector<ArrowArray> batches;

    ~Source() {
        for (ArrowArray& batch : batches) {
            if (batch.release != nullptr) batch.release(&batch);
        }
        if (schema.release != nullptr) schema.release(&schema);
    }
};

void destroy_source(PyObject* capsule) { delete static_cast<Source*>(PyCapsule_GetPointer(capsule, source_name)); }

/// Takes over what a capsule holds; its release becomes null.
template <class Struct>
bool take_over(PyObject* capsule, const char* name, Struct& into) {
    auto* held = static_cast<Struct*>(PyCapsule_GetPointer(capsule, name));
    if (held == nullptr) return false;
    if (held->release == nullptr) {
        PyErr_SetString(PyExc_ValueError, "its rows were taken by somebody else already");
        return false;
    }
    into = std::exchange(*held, Struct{});
    return true;
}

/// All that a stream has. No GIL. Empty, or what went wrong.
std::string read_all(ArrowArrayStream& stream, Source& source) {
    const auto failure = [&stream] {
        const char* text = stream.get_last_error(&stream);
        return std::string(text != nullptr ? text : "its stream failed");
    };
    if (stream.get_schema(&stream, &source.schema) != 0) return failure();
    for (;;) {
        ArrowArray batch{};
        if (stream.get_next(&stream, &batch) != 0) return failure();
        if (batch.release == nullptr) return {};
        source.batches.push_back(batch);
    }
}

/// What cannot travel, thrown from the depth of a table to where it is sent.
struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};
/// A Python exception that is set.
struct Raised : std::exception {};

class Writer {
public:
    Writer(State& state, Memory& memory, Outgoing& out, PyObject* source)
        : state_(state), memory_(memory), out_(out), values_(out.values), source_(source) {}

    void schema(const ArrowSchema& schema, std::size_t depth) {
        if (depth + 2 > wire::max_depth) throw Refused("is nested too deeply");
        const auto layout = layout_of(schema.format);
        if (!layout) throw Refused("has the Arrow type '" + std::string(schema.format) + "', " + unsupported);
        values_.container(wire::Tag::list, 6);
        values_.text(schema.format);
        values_.text(schema.name != nullptr ? schema.name : "");
        values_.integer(schema.flags);
        put_metadata(schema.metadata);
        values_.container(wire::Tag::list, static_cast<std::uint32_t>(schema.n_children));
        for (std::int64_t i = 0; i < schema.n_children; ++i) {
            const Column here(*this, *schema.children[i]);
            this->schema(*schema.children[i], depth + 2);
        }
        if (schema.dictionary != nullptr) {
            this->schema(*schema.dictionary, depth + 1);
        } else {
            values_.null();
        }
    }

    /// `count` values from the one at `from` in the buffers on.
    void array(const ArrowSchema& schema, const ArrowArray& array, std::int64_t from, std::int64_t count) {
        const ArrowLayout layout = layout_of(schema.format).value_or(ArrowLayout{});  // `schema` refuses what has none
        const void* bitmap = layout.has_bitmap() && array.null_count != 0 ? array.buffers[0] : nullptr;
        // Bits can be handed over from every eighth one on.
        const bool has_bits = count > 0 && (bitmap != nullptr || layout.bits == 1);
        const std::int64_t start = has_bits ? from & ~std::int64_t{7} : from;
        const std::int64_t lead = from - start, all = count + lead;
        const bool is_whole = from == array.offset && count == array.length;
        values_.container(wire::Tag::list, 6);
        values_.integer(count);
        values_.integer(layout.is == Is::nothing ? count : bitmap == nullptr ? 0 : is_whole ? array.null_count : -1);
        values_.integer(lead);
        switch (layout.is) {
            case Is::nothing: buffers(0); break;
            case Is::fixed:
                buffers(2);
                bits(bitmap, 1, wire::DType::uint8, start, all);
                bits(array.buffers[1], layout.bits, layout.dtype, start, all);
                break;
            case Is::variable: {
                buffers(3);
                bits(bitmap, 1, wire::DType::uint8, start, all);
                const Span span = offsets(array.buffers[1], layout, from, lead, count);
                put(static_cast<const std::byte*>(array.buffers[2]) + span.first,
                    static_cast<std::uint64_t>(span.count), wire::DType::uint8);
                break;
            }
            case Is::views: views(array, bitmap, start, all); break;
            case Is::list:
            case Is::fixed_list:
            case Is::structure: return nested(schema, array, layout, bitmap, {from, lead, count});
        }
        values_.container(wire::Tag::list, 0);
        if (schema.dictionary != nullptr) {
            this->array(*schema.dictionary, *array.dictionary, array.dictionary->offset, array.dictionary->length);
        } else {
            values_.null();
        }
    }

    std::string column() const {
        std::string path;
        for (const char* name : columns_) {
            const Ref key(PyUnicode_DecodeUTF8(name, static_cast<Py_ssize_t>(std::strlen(name)), "replace"));
            if (key) path += path_step(key.get());
        }
        PyErr_Clear();
        return path;
    }

private:
    struct Range {
        std::int64_t from, lead, count;
    };
    struct Span {
        std::int64_t first, count;
    };

    /// The column that is being looked at; it stays on the list when it is what was refused.
    class Column {
    public:
        Column(Writer& writer, const ArrowSchema& schema) : writer_(writer), exceptions_(std::uncaught_exceptions()) {
            writer_.columns_.push_back(schema.name != nullptr ? schema.name : "");
        }
        ~Column() {
            if (std::uncaught_exceptions() == exceptions_) writer_.columns_.pop_back();
        }
        Column(const Column&) = delete;
        Column& operator=(const Column&) = delete;

    private:
        Writer& writer_;
        int exceptions_;
    };

    static constexpr const char* unsupported = "which can't travel: cast it to another type first";
    static constexpr const char* torn = "has offsets that make no sense";

    void buffers(std::uint32_t count) { values_.container(wire::Tag::list, count); }

    void put_metadata(const char* metadata) {
        if (metadata == nullptr) return values_.null();
        const char* end = metadata;
        const auto number = [&end] {
            std::int32_t value;
            std::memcpy(&value, end, sizeof value);
            end += sizeof value;
            return value;
        };
        for (std::int32_t left = 2 * number(); left > 0; --left) {
            const std::int32_t bytes = number();
            end += bytes;
        }
        put(metadata, static_cast<std::uint64_t>(end - metadata), wire::DType::uint8);
    }

    /// The children of a list or a structure, behind what says where they are.
    void nested(const ArrowSchema& schema, const ArrowArray& array, const ArrowLayout& layout, const void* bitmap,
                const Range& range) {
        const std::int64_t start = range.from - range.lead, all = range.count + range.lead;
        buffers(layout.is == Is::list ? 2 : 1);
        bits(bitmap, 1, wire::DType::uint8, start, all);
        Span inside{start, all};
        if (layout.is == Is::list) inside = offsets(array.buffers[1], layout, range.from, range.lead, range.count);
        if (layout.is == Is::fixed_list) inside = {start * layout.items, all * layout.items};
        values_.container(wire::Tag::list, static_cast<std::uint32_t>(schema.n_children));
        for (std::int64_t i = 0; i < schema.n_children; ++i) {
            const Column here(*this, *schema.children[i]);
            const ArrowArray& child = *array.children[i];
            this->array(*schema.children[i], child, child.offset + inside.first, inside.count);
        }
        values_.null();
    }

    void bits(const void* data, std::uint64_t bits, wire::DType dtype, std::int64_t start, std::int64_t count) {
        if (data == nullptr && (bits == 1 || count == 0)) return values_.null();
        const auto first = static_cast<std::uint64_t>(start) * bits / 8;
        put(static_cast<const std::byte*>(data) + first, (static_cast<std::uint64_t>(count) * bits + 7) / 8, dtype);
    }

    /// Offsets, and what they span. Those that are copied anyway begin at 0 then, so that no more than the span has to travel.
    Span offsets(const void* data, const ArrowLayout& layout, std::int64_t from, std::int64_t lead,
                 std::int64_t count) {
        const std::uint64_t item = layout.offset_bytes();
        if (data == nullptr || lead + count == 0) {
            const std::int64_t zero = 0;
            put(&zero, item, layout.offset_dtype());
            return {0, 0};
        }
        const std::int64_t first = offset_at(data, layout, from), last = offset_at(data, layout, from + count);
        if (first < 0 || last < first) throw Refused(torn);
        const auto* begin = static_cast<const std::byte*>(data) + static_cast<std::uint64_t>(from - lead) * item;
        const std::uint64_t bytes = static_cast<std::uint64_t>(lead + count + 1) * item;
        if (const Handle found = memory_.retain_found(begin, bytes); found.bytes != 0) {
            lease(found, layout.offset_dtype());
            return {0, last};
        }
        if (first == 0) {
            put(begin, bytes, layout.offset_dtype());
            return {0, last};
        }
        std::byte* to = make(bytes, layout.offset_dtype());
        for (std::int64_t i = -lead; i <= count; ++i, to += item) {
            const std::int64_t offset = i < 0 ? 0 : offset_at(data, layout, from + i) - first;
            std::memcpy(to, &offset, item);
        }
        return {first, last - first};
    }

    void views(const ArrowArray& array, const void* bitmap, std::int64_t start, std::int64_t all) {
        const std::int64_t many = array.n_buffers - 3;
        buffers(static_cast<std::uint32_t>(2 + many));
        bits(bitmap, 1, wire::DType::uint8, start, all);
        bits(array.buffers[1], 128, wire::DType::uint8, start, all);
        const auto* sizes = static_cast<const std::int64_t*>(array.buffers[array.n_buffers - 1]);
        for (std::int64_t i = 0; i < many; ++i)
            put(array.buffers[2 + i], static_cast<std::uint64_t>(sizes[i]), wire::DType::uint8);
    }

    /// One buffer: where it lies if that is the bus, else a copy; one that several batches share is copied once.
    void put(const void* data, std::uint64_t bytes, wire::DType dtype) {
        if (bytes == 0) {
            make(0, dtype);
            return;
        }
        if (const Handle found = memory_.retain_found(data, bytes); found.bytes != 0) return lease(found, dtype);
        if (bytes < inline_array_bytes) {
            std::memcpy(make(bytes, dtype), data, bytes);
            return;
        }
        const auto [known, is_new] = copied_.try_emplace({data, bytes}, out_.payloads.size());
        cell(dtype, wire::cell_leased, known->second, bytes);
        if (!is_new) return;
        auto view = std::make_unique<Py_buffer>();
        if (PyBuffer_FillInfo(view.get(), source_, const_cast<void*>(data), static_cast<Py_ssize_t>(bytes), 1,
                              PyBUF_SIMPLE) < 0)
            throw Raised{};
        out_.copies.push_back({std::move(view), out_.payloads.size(), false});
        out_.payloads.push_back({0, bytes, no_block, 0});
    }

    /// Room for a buffer that is written here.
    std::byte* make(std::uint64_t bytes, wire::DType dtype) {
        if (bytes < inline_array_bytes) {
            const auto [room, where] = values_.room(bytes);
            cell(dtype, 0, where, bytes);
            return room;
        }
        const auto made = memory_.allocate(bytes);
        if (made.status != Status::ok) {
            raise(state_, made.status);
            throw Raised{};
        }
        memory_.count_copied(bytes);
        lease({made.handle.offset, bytes, made.handle.block, made.handle.generation}, dtype);
        return memory_.at(made.handle);
    }

    void lease(const Handle& handle, wire::DType dtype) {
        cell(dtype, wire::cell_leased, out_.payloads.size(), handle.bytes);
        out_.payloads.push_back(handle);
    }

    void cell(wire::DType dtype, std::uint16_t flags, std::uint64_t where, std::uint64_t bytes) {
        const std::uint64_t shape[] = {bytes / wire::item_bytes(dtype)};
        values_.array(dtype, flags, where, shape);
    }

    State& state_;
    Memory& memory_;
    Outgoing& out_;
    wire::Values& values_;
    PyObject* const source_;
    std::vector<const char*> columns_;
    std::map<std::pair<const void*, std::uint64_t>, std::size_t> copied_;  // payloads
};

/// The exception that is set, as a reason.
TableSent refusal() {
    const Ref error = take_exception();
    const Ref text(error ? PyObject_Str(error.get()) : nullptr);
    const char* utf8 = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
    PyErr_Clear();
    return {Outcome::refused, {}, std::string("can't become an Arrow table: ") + (utf8 != nullptr ? utf8 : "?")};
}

/// Has the object hand its rows over. The GIL is given back while it makes them.
TableSent read(PyObject* object, Source& source) {
    const Ref stream(PyObject_GetAttrString(object, "__arrow_c_stream__"));
    if (!stream) PyErr_Clear();
    const Ref handed(stream ? PyObject_CallNoArgs(stream.get())
                            : PyObject_CallMethod(object, "__arrow_c_array__", nullptr));
    if (!handed) {
        // Such as pandas without pyarrow.
        if (!PyErr_ExceptionMatches(PyExc_ImportError)) return refusal();
        PyErr_Clear();
        return {Outcome::no_table};
    }
    if (stream) {
        ArrowArrayStream rows{};
        if (!take_over(handed.get(), "arrow_array_stream", rows)) return refusal();
        const WithoutGil without;
        const std::unique_ptr<ArrowArrayStream, void (*)(ArrowArrayStream*)> released(
            &rows, [](ArrowArrayStream* stream) { stream->release(stream); });
        const std::string failure = read_all(rows, source);
        if (!failure.empty()) return {Outcome::refused, {}, "can't become an Arrow table: " + failure};
        return {};
    }
    PyObject *schema, *batch;
    if (!PyArg_ParseTuple(handed.get(), "OO", &schema, &batch)) return refusal();
    source.batches.emplace_back();
    if (!take_over(schema, "arrow_schema", source.schema) || !take_over(batch, "arrow_array", source.batches[0]))
        return refusal();
    return {};
}

}  // namespace

TableSent encode_table(State& state, Memory& memory, Outgoing& out, PyObject* object, std::size_t depth) {
    auto made = std::make_unique<Source>();
    Source& source = *made;
    const Ref owner(PyCapsule_New(made.get(), source_name, destroy_source));
    if (!owner) return {Outcome::raised};
    (void)made.release();
    TableSent handed = read(object, source);
    if (handed.outcome != Outcome::done) return handed;
    if (std::string_view(source.schema.format) != "+s") return {Outcome::no_table};
    Writer writer(state, memory, out, owner.get());
    try {
        out.values.container(wire::Tag::table, static_cast<std::uint32_t>(source.batches.size()));
        writer.schema(source.schema, depth + 1);
        for (const ArrowArray& batch : source.batches) {
            if (batch.null_count > 0) throw Refused("has rows that are null as a whole");
            writer.array(source.schema, batch, batch.offset, batch.length);
        }
    } catch (const Refused& refused) {
        return {Outcome::refused, writer.column(), refused.what()};
    } catch (const Raised&) {
        return {Outcome::raised};
    }
    return {};
}

}  // namespace isthmus::python
