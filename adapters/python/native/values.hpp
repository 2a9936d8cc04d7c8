// Python values to cells and back. bus/wire.hpp draws the cells.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "memory.hpp"
#include "state.hpp"

namespace isthmus::python {

inline constexpr std::uint32_t no_block = 0xffffffff;  // of a payload that a copy still has to bring

/// What a message carries on its way out. Reused from message to message, it stops allocating.
class Outgoing {
public:
    /// Elements that are brought into the bus without the GIL, by `settle`.
    struct Copy {
        std::unique_ptr<Py_buffer> view;  // stays where it is: its shape may point into it
        std::size_t payload;
        bool swap;
    };

    Outgoing() = default;
    Outgoing(Outgoing&&) = default;
    Outgoing& operator=(Outgoing&&) = default;

    wire::Values values;
    std::vector<Copy> copies;
    std::vector<Handle> payloads;  // one use of each is this message's own, but for no_block

    struct Mark {
        wire::Values::Mark values;
        std::size_t copies, payloads;
    };
    Mark mark() const { return {values.mark(), copies.size(), payloads.size()}; }
    /// Forgets what came after a mark. GIL held.
    void rewind(const Mark& mark, Memory& memory);
    /// Allocates and fills what `copies` names. Without the GIL. ok, no_memory, too_large, closed.
    Status settle(Memory& memory);
    /// Ends the message's uses of its payloads, once it is sent or not. With or without the GIL.
    void release_payloads(Memory& memory);
    /// Lets go of the objects that were copied from. GIL held.
    void drop_copies();
    bool has_copies() const { return !copies.empty(); }
};

/// Where a value sits, for errors: `args[1]`, `kwargs.rows`, `result`.
struct Root {
    const char* name;
    Py_ssize_t index = -1;
    PyObject* key = nullptr;
    std::size_t depth = 0;  // containers that are open around the value
};

/// Appends a value. False with EncodeError set, and nothing appended, when it can't travel. `own`: copied arrays become
/// the receiver's, who may write to them. GIL held.
bool encode(State& state, Memory& memory, Outgoing& out, PyObject* value, const Root& root, bool own);

/// Reads the values of a received frame in order, and owns its payloads' uses. GIL held but where noted.
class Decoder {
public:
    Decoder(State& state, const std::shared_ptr<Memory>& memory, const wire::Draft& frame)
        : state_(state), memory_(memory), frame_(frame) {}
    /// Ends the uses that no value took over.
    ~Decoder();
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;

    bool at_end() const { return at_ == frame_.cells.size(); }
    const wire::Cell& peek() const { return frame_.cells[at_]; }
    /// Steps into the container that peek showed.
    void enter() { ++at_; }
    /// The next value; null with an exception set.
    PyObject* next();
    PyObject* next_text();

private:
    PyObject* text(const wire::Cell& cell);
    PyObject* list(const wire::Cell& cell);
    PyObject* dict(const wire::Cell& cell);
    PyObject* set(const wire::Cell& cell);
    PyObject* next_hashable();
    static PyObject* confused(const char* what);
    PyObject* array(const wire::Cell& cell);
    PyObject* typed(const wire::Cell& cell);
    static bool fits(PyObject* dtype, std::uint64_t item_bytes);
    PyObject* date(double milliseconds);
    Handle take(std::uint64_t payload);

    State& state_;
    const std::shared_ptr<Memory>& memory_;
    const wire::Draft& frame_;
    std::size_t at_ = 0;
    std::uint64_t taken_ = 0;  // of the first 64 payloads: the use went to a Lease
};

/// Ends the uses of a frame that nobody decodes. With or without the GIL.
void release_payloads(Memory& memory, const wire::Draft& frame);

}  // namespace isthmus::python
