// Replies and refusals.
#include "arrays.hpp"
#include "dispatcher.hpp"
#include "errors.hpp"

namespace isthmus::python {

namespace {
constexpr std::size_t most_kept_heap = 1 << 20;  // of a result's encoding, for the next one
}

// --- with the GIL ---------------------------------------------------------------------------------------------------

void Dispatcher::answer_exception(Call& call) {
    const Ref exception = take_exception();
    if (call.frame.kind == wire::Kind::post) {
        log_exception(state_, "the post of '" + call.target->name + "' failed", exception.get());
        return;
    }
    Outgoing out;
    if (call.cancelled && exception && PyErr_GivenExceptionMatches(exception.get(), state_.cancelled)) {
        reply(call, out, wire::Kind::error, Status::cancelled);
        return;
    }
    if (exception) put_exception(state_, *memory_, out, exception.get(), tells_origin(call));
    reply(call, out, wire::Kind::error);
}

void Dispatcher::reply(Call& call, Outgoing& out, wire::Kind kind, Status status) {
    if (out.has_copies()) {
        late_.push_back({call.link, kind, call.index, call.frame.id, std::exchange(out, Outgoing())});
        return;
    }
    wire::Draft draft{.kind = kind, .status = status, .target = call.index, .id = call.frame.id};
    out.fill(draft);
    const bool was_large = draft.heap.size() > most_kept_heap;
    const bool was_sent = call.link != nullptr && bus_.answer(*call.link, draft) == Status::ok;
    out.end(*memory_, was_sent);
    if (was_large) out = Outgoing();
    unpublished_ = true;
}

/// Does what had to wait for the GIL: lets go of what large results were copied from, and of what was dropped; logs.
void Dispatcher::catch_up() {
    if (!late_.empty()) answer_late();
    for (Late& late : late_) late.out.drop_copies();
    late_.clear();
    for (const std::string& name : std::exchange(unknown_posts_, {})) {
        log_exception(state_, "a post was lost: no function is exported under the name '" + name + "'", nullptr);
    }
    memory_->objects().drop_buried();
}

// --- answers that need no Python: with or without the GIL ---------------------------------------------------------

void Dispatcher::refuse(Call& call, Status status) {
    discard(bus_, *memory_, call.frame);
    Link& link = *std::exchange(call.link, nullptr);
    if (call.frame.kind == wire::Kind::post) {
        if (status == Status::not_exported) unknown_posts_.emplace_back(call.frame.name);
        return;
    }
    wire::Draft draft{.kind = wire::Kind::error, .status = status, .target = call.index, .id = call.frame.id};
    wire::Values about;
    if (status == Status::not_exported) {
        about.container(wire::Tag::object, 2);
        about.text("name", true);
        about.text(call.frame.name);
        about.text("close", true);
        const auto close = exports_ != nullptr ? exports_->close_to(call.frame.name) : std::vector<std::string>();
        about.container(wire::Tag::list, static_cast<std::uint32_t>(close.size()));
        for (const std::string& name : close) about.text(name);
        draft.cells = about.cells();
        draft.heap = about.heap();
    }
    (void)bus_.answer(link, draft);
    unpublished_ = true;
}

/// Brings large results into the bus and answers. The views keep the memory.
void Dispatcher::answer_late() {
    for (Late& late : late_) {
        if (std::exchange(late.answered, true)) continue;
        const Status settled = late.link != nullptr ? late.out.settle(*memory_) : Status::lost;
        wire::Draft draft{.kind = late.kind, .target = late.index, .id = late.id};
        if (settled == Status::ok) {
            late.out.fill(draft);
        } else {
            draft.kind = wire::Kind::error;
            draft.status = settled;
        }
        const Status sent = late.link != nullptr ? bus_.answer(*late.link, draft) : Status::lost;
        late.out.end(*memory_, settled == Status::ok && sent == Status::ok);
    }
}

}  // namespace isthmus::python
