// What a received table is made of.
#pragma once

#include <deque>
#include <exception>
#include <vector>

#include "arrow.hpp"

namespace isthmus::python {

struct SchemaNode {
    std::string format;
    std::string name;
    std::optional<std::string> metadata;
    std::int64_t flags = 0;
    ArrowLayout layout;
    std::vector<SchemaNode> children;
    std::unique_ptr<SchemaNode> dictionary;
};

struct ArrayNode {
    std::int64_t length = 0;
    std::int64_t null_count = 0;
    std::int64_t offset = 0;
    std::vector<const void*> buffers;
    std::vector<std::int64_t> view_sizes;  // one of `buffers` is this
    std::vector<ArrayNode> children;
    std::unique_ptr<ArrayNode> dictionary;
};

/// Rows, and what their buffers lie in. Let go of on any thread, with or without the GIL.
struct Batch {
    std::shared_ptr<Memory> memory;
    std::deque<Memory::Hold> holds;
    std::vector<std::unique_ptr<std::byte[]>> copies;
    ArrayNode rows;

    Batch() = default;
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;
    ~Batch();
};

struct TableParts {
    std::shared_ptr<const SchemaNode> schema;
    std::vector<std::shared_ptr<const Batch>> batches;
};

/// Thrown where the parts of a table that has arrived do not fit one another.
struct TornTable : std::exception {};

}  // namespace isthmus::python
