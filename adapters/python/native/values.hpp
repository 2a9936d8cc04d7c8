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
        std::uint32_t foreign;  // bytes of the words to be turned
    };

    Outgoing() = default;
    Outgoing(Outgoing&&) = default;
    Outgoing& operator=(Outgoing&&) = default;

    wire::Values values;
    std::vector<Copy> copies;
    std::vector<Handle> payloads;     // one use of each is this message's own, but for no_block
    std::vector<std::uint64_t> pins;  // own objects among the values
    std::vector<PyObject*> held;      // owned: the References among the values
    std::uint64_t refused_bytes = 0;  // the allocation that settle failed at
    std::string pickled;              // where the first pickle sits; empty: there is none

    struct Mark {
        wire::Values::Mark values;
        std::size_t copies, payloads, pins, held, pickled;
    };
    Mark mark() const {
        return {values.mark(), copies.size(), payloads.size(), pins.size(), held.size(), pickled.size()};
    }
    /// Forgets what came after a mark. GIL held.
    void rewind(const Mark& mark, Memory& memory);
    /// Allocates and fills what `copies` names. Without the GIL. ok, no_memory, too_large, closed.
    Status settle(Memory& memory);
    /// What it holds, in a frame's draft.
    void fill(wire::Draft& draft) const;
    /// Ends the message's uses of payloads and objects, once it is sent or given up. With or without the GIL.
    void end(Memory& memory, bool was_sent);
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
    bool lends = true;      // whether what has no value form is lent
    bool tables = true;     // whether tables travel, rather than being lent
    bool pickles = false;   // whether it is sent as a pickle before that

    /// The result of a call with these flags, or an item of it.
    static Root of_call(const char* name, std::uint16_t frame_flags, bool pickles) {
        return {.name = name, .tables = (frame_flags & wire::frame_lends) == 0, .pickles = pickles};
    }
};

/// Appends a value. False with EncodeError set, and nothing appended, when it can't travel. `own`: copied arrays become
/// the receiver's, who may write to them. GIL held.
bool encode(State& state, Memory& memory, Outgoing& out, PyObject* value, const Root& root, bool own);
/// Appends a reference to a value, which stays here whether it has another form or not. GIL held.
bool encode_reference(State& state, Memory& memory, Outgoing& out, PyObject* value);

/// How a key shows in a path: `.name`, or `['name']` where that is no identifier. GIL held.
std::string path_step(PyObject* key);

/// Reads the values of a received frame in order, and owns its payloads' uses, its references and its pins. GIL held.
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
    /// The next value as a Parcel. EncodeError where it holds what lives as long as its owner, or a pickle.
    PyObject* next_parcel();
    /// The next value; of a tuple whose last member can't be read, with the exception in its place.
    PyObject* next_delivery();
    /// The next value, which is a reference: one to another's object as the bare Reference.
    PyObject* next_origin();

private:
    friend class TableReader;

    PyObject* text(const wire::Cell& cell);
    PyObject* list(const wire::Cell& cell);
    PyObject* dict(const wire::Cell& cell);
    PyObject* set(const wire::Cell& cell);
    PyObject* next_hashable();
    static PyObject* confused(const char* what);
    PyObject* tuple(const wire::Cell& cell);
    PyObject* slice();
    PyObject* pickle(const wire::Cell& cell);
    PyObject* own_object(const wire::Cell& cell);
    PyObject* array(const wire::Cell& cell);
    PyObject* table(const wire::Cell& cell);
    PyObject* typed(const wire::Cell& cell);
    static bool fits(PyObject* dtype, std::uint64_t item_bytes);
    PyObject* date(double milliseconds);
    Handle take(std::uint64_t payload);
    /// Where the value ends that begins at a cell. `look` is shown each of its cells and how deep it lies; false ends it: 0.
    template <class Look>
    std::size_t walk(std::size_t at, Look&& look) const;

    State& state_;
    const std::shared_ptr<Memory>& memory_;
    const wire::Draft& frame_;
    std::size_t at_ = 0;
    std::uint64_t taken_ = 0;  // of the first 64 payloads: the use went to a Lease
};

/// Ends the uses, references and pins of a frame that nobody decodes. The peer's thread, with or without the GIL.
void discard(Bus& bus, Memory& memory, const wire::Draft& frame);

}  // namespace isthmus::python
