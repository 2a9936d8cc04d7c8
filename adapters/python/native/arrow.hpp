// Tables, as the Arrow C data interface hands them over: https://arrow.apache.org/docs/format/CDataInterface.html
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "values.hpp"

namespace isthmus::python {

// The interface's own structs.
struct ArrowSchema {
    const char* format;
    const char* name;
    const char* metadata;
    std::int64_t flags;
    std::int64_t n_children;
    ArrowSchema** children;
    ArrowSchema* dictionary;
    void (*release)(ArrowSchema*);
    void* private_data;
};
struct ArrowArray {
    std::int64_t length;
    std::int64_t null_count;
    std::int64_t offset;
    std::int64_t n_buffers;
    std::int64_t n_children;
    const void** buffers;
    ArrowArray** children;
    ArrowArray* dictionary;
    void (*release)(ArrowArray*);
    void* private_data;
};
struct ArrowArrayStream {
    int (*get_schema)(ArrowArrayStream*, ArrowSchema* out);
    int (*get_next)(ArrowArrayStream*, ArrowArray* out);
    const char* (*get_last_error)(ArrowArrayStream*);
    void (*release)(ArrowArrayStream*);
    void* private_data;
};

/// Which buffers and children the values of a type have; a bitmap of those that are not null comes first.
struct ArrowLayout {
    enum class Is : std::uint8_t {
        nothing,     // no buffers at all
        fixed,       // values of `bits`
        variable,    // offsets, bytes
        views,       // 16 bytes each, then any number of buffers that they point into
        list,        // offsets; one child
        fixed_list,  // one child, with `items` for each value
        structure,   // a child for each field
    };
    Is is = Is::nothing;
    wire::DType dtype = wire::DType::uint8;  // how the values' buffer travels: as apache-arrow holds it
    std::uint64_t bits = 0;
    bool has_long_offsets = false;
    std::int64_t items = 0;

    bool has_bitmap() const { return is != Is::nothing; }
    std::uint64_t offset_bytes() const { return has_long_offsets ? 8 : 4; }
    wire::DType offset_dtype() const { return has_long_offsets ? wire::DType::int64 : wire::DType::int32; }
};

/// The layout of a format; nullopt for those that do not travel: unions, list views, run-end encoded values.
std::optional<ArrowLayout> layout_of(std::string_view format);

/// The offset at an index.
std::int64_t offset_at(const void* offsets, const ArrowLayout& layout, std::int64_t index);

/// How sending a table went.
struct TableSent {
    enum class Outcome : std::uint8_t { done, no_table, refused, raised };
    Outcome outcome = Outcome::done;
    std::string column = {};  // of what was refused: a path like `.prices`, or empty for the whole table
    std::string reason = {};
};

/// Appends what an object shows through the Arrow PyCapsule interface, `depth` containers deep. no_table, with nothing appended, when its
/// rows are no records or the library that would make them is not installed. GIL held, given back while the rows are made.
TableSent encode_table(State& state, Memory& memory, Outgoing& out, PyObject* object, std::size_t depth);

struct TableParts;
/// A Table over what was received. GIL held.
PyObject* new_table(State& state, std::shared_ptr<const TableParts> parts);

extern PyType_Spec table_spec;

}  // namespace isthmus::python
