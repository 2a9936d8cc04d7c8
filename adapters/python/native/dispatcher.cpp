#include "dispatcher.hpp"

#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <ctime>

#include "arrays.hpp"
#include "errors.hpp"
#include "numpy_memory.hpp"

namespace isthmus::python {

namespace {

constexpr std::size_t most_calls = 256;            // of a batch
constexpr std::size_t most_batch_bytes = 1 << 20;  // likewise; a single frame may be larger
constexpr std::size_t room_at_least = most_batch_bytes + 2 * Link::inline_bytes;
constexpr std::size_t room_to_keep = 8 << 20;     // after a larger frame the room shrinks again
constexpr std::size_t most_kept_heap = 1 << 20;   // of a result's encoding, for the next one
constexpr std::uint64_t publish_after = 100'000;  // ns that an answer may wait for the rest of its batch
constexpr std::uint64_t slow_call = 50'000;       // ns from which a call counts as slow
constexpr std::int32_t wary_calls = 256;          // after a slow one
constexpr std::uint64_t gil_at_most = 5'000'000;  // ns of work for one take
constexpr std::uint64_t second = 1'000'000'000;

std::size_t up_to_8(std::size_t bytes) { return (bytes + 7) & ~std::size_t{7}; }

/// Of a counter that this thread alone writes.
void count(layout::Word64& counter) {
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

}  // namespace

Dispatcher::Dispatcher(State& state, Bus& bus, std::shared_ptr<Memory> memory, Calls& calls, ExportTable* exports,
                       const std::atomic<bool>& stop, bool numpy_memory)
    : state_(state),
      bus_(bus),
      memory_(std::move(memory)),
      calls_(calls),
      exports_(exports),
      stop_(stop),
      shares_numpy_memory_(!numpy_memory) {
    lost_ = [this](Link& link, Status reason) {
        forget(link);
        calls_.lost(link, reason);
    };
    batch_.reserve(most_calls);
    note_service();
}

void Dispatcher::note_service() {
    const Link* service = bus_.service();
    service_slot_.store(service != nullptr ? service->ends().other : layout::max_peers, std::memory_order_relaxed);
}

// --- the loop: without the GIL but where take_gil and give_gil stand around -------------------------------------

void Dispatcher::run() {
    try {
        serve();
    } catch (...) {
        if (thread_ != nullptr) take_gil();
        throw;
    }
}

void Dispatcher::serve() {
    Memory::of_this_thread() = memory_;
    if (numpy_if_imported(state_) != nullptr) share_numpy_memory();
    give_gil();
    while (!stop_.load(std::memory_order_acquire) && !bus_.closed()) {
        bus_.attend(lost_);
        note_service();
        calls_.send(bus_, *memory_);
        const bool received = gather();
        if (has_batch()) {
            refuse_what_cannot_run();
            run_batch();
            answer_late();
        }
        bus_.flush();
        unpublished_ = false;
        if (!received && !has_batch()) idle();
    }
    farewell();
    Memory::of_this_thread() = nullptr;
    take_gil();
    catch_up();
}

/// Receives calls up to the bounds of a batch, behind those that an earlier take has left over. False when there was nothing.
bool Dispatcher::gather() {
    if (!has_batch()) {
        batch_.clear();
        next_ = used_ = 0;
        if (room_bytes_ > room_to_keep) room_bytes_ = 0;
    }
    if (room_bytes_ == 0) {
        room_bytes_ = room_at_least;
        room_ = std::make_unique_for_overwrite<std::byte[]>(room_bytes_);
    }
    const std::size_t before = batch_.size();
    bool any = false;
    while (batch_.size() < most_calls && used_ < most_batch_bytes) {
        const std::span<std::byte> room{room_.get() + used_, room_bytes_ - used_};
        const Bus::Received received = bus_.receive(room);
        if (received.status == Status::too_large) {
            if (used_ != 0) break;
            room_bytes_ = up_to_8(received.bytes);
            room_ = std::make_unique_for_overwrite<std::byte[]>(room_bytes_);
            continue;
        }
        if (received.status != Status::ok) break;
        any = true;
        accept(received, room.first(received.bytes));
    }
    if (batch_.size() > before) {
        auto& counters = bus_.counters();
        count(counters.batches);
        count(counters.batch_sizes[std::bit_width(batch_.size() - before) - 1]);
    }
    return any;
}

void Dispatcher::accept(const Bus::Received& received, std::span<const std::byte> bytes) {
    switch (received.frame.kind) {
        case wire::Kind::call:
        case wire::Kind::post:
            batch_.push_back({received.link, received.frame, nullptr, wire::name_only, false});
            used_ += up_to_8(bytes.size());
            return;
        case wire::Kind::reply:
        case wire::Kind::error: calls_.settle(*received.link, received.frame, bytes, *memory_); return;
        case wire::Kind::cancel:
            for (std::size_t i = next_; i < batch_.size(); ++i) {
                if (batch_[i].link == received.link && batch_[i].frame.id == received.frame.id)
                    batch_[i].cancelled = true;
            }
            release_payloads(*memory_, received.frame);
            return;
        default: bus_.discard(received.frame);
    }
}

/// Looks the exports up, and answers what is not exported, cancelled or too late.
void Dispatcher::refuse_what_cannot_run() {
    if (exports_ != nullptr) {
        ExportTable::Reader reader(*exports_);
        for (std::size_t i = next_; i < batch_.size(); ++i) {
            Call& call = batch_[i];
            if (call.target == nullptr) call.target = reader.find(call.frame.target, call.frame.name, call.index);
        }
    }
    for (std::size_t i = next_; i < batch_.size(); ++i) {
        Call& call = batch_[i];
        if (call.link == nullptr) continue;
        if (call.target == nullptr) {
            refuse(call, Status::not_exported);
        } else if (call.cancelled || (call.frame.deadline != 0 && call.frame.deadline < now_ns())) {
            refuse(call, Status::timed_out);
        }
    }
    while (has_batch() && batch_[next_].link == nullptr) ++next_;
}

void Dispatcher::run_batch() {
    if (!has_batch()) return;
    take_gil();
    catch_up();
    if (!shares_numpy_memory_ && state_.numpy.is == Numpy::Is::here) share_numpy_memory();
    ticks_.learn();
    const std::uint64_t slow = ticks_.of_ns(slow_call), late = ticks_.of_ns(publish_after),
                        enough = ticks_.of_ns(gil_at_most);
    const std::uint64_t began = Ticks::now();
    std::uint64_t now = published_at_ = began;
    while (has_batch() && !stop_.load(std::memory_order_relaxed)) {
        Call& call = batch_[next_++];
        if (call.link == nullptr) continue;
        if (call.frame.deadline != 0 && call.frame.deadline < now_ns()) {
            refuse(call, Status::timed_out);
            continue;
        }
        Export& target = *call.target;
        const std::int32_t wary = target.wary.load(std::memory_order_relaxed);
        if (wary > 0 && unpublished_) publish(now);
        perform(call);
        const std::uint64_t started = now;
        now = Ticks::now();
        if (now - started > slow) {
            target.wary.store(wary_calls, std::memory_order_relaxed);
        } else if (wary > 0) {
            target.wary.store(wary - 1, std::memory_order_relaxed);
        }
        if (now - published_at_ > late) publish(now);
        if (now - began > enough) break;
    }
    give_gil();
}

/// From now on what exports compute lies in the bus, if it is large. Once numpy is there; GIL held.
void Dispatcher::share_numpy_memory() {
    if (std::exchange(shares_numpy_memory_, true)) return;
    const Ref before(use_numpy_memory(state_, true));
    if (!before) log_exception(state_, "numpy can't allocate in the bus", take_exception().get());
}

void Dispatcher::publish(std::uint64_t now) {
    bus_.flush();
    published_at_ = now;
    unpublished_ = false;
}

void Dispatcher::idle() {
    const std::uint64_t now = now_ns();
    if (now - ticked_at_ > second) {
        ticked_at_ = now;
        bus_.tick();
    }
    const auto deadline = doorbell::Clock::now() + std::chrono::seconds(1);
    const auto ready = [this] { return bus_.ready() || calls_.has_work() || stop_.load(std::memory_order_relaxed); };
    auto& counters = bus_.counters();
    if (spin_.until(ready, deadline)) {
        count(counters.spins);
        return;
    }
    if (!late_.empty() || !unknown_posts_.empty()) {
        take_gil();
        catch_up();
        give_gil();
    }
    if (!bus_.arm() && !ready()) {
        count(counters.sleeps);
        if (doorbell::sleep(bus_.bell(), deadline)) bus_.silence();
    }
    bus_.disarm();
}

/// What runs has finished by now; what has not begun is answered, so that its callers know that it was not.
void Dispatcher::farewell() {
    constexpr std::uint64_t patience = second / 5;
    const std::uint64_t began = now_ns();
    do {
        for (; has_batch(); ++next_) {
            if (batch_[next_].link != nullptr) refuse(batch_[next_], Status::closed);
        }
        bus_.flush();
    } while (now_ns() - began < patience && gather());
    bus_.flush();
    calls_.end(Status::closed, *memory_);
}

void Dispatcher::forget(const Link& link) {
    for (std::size_t i = next_; i < batch_.size(); ++i) {
        if (batch_[i].link != &link) continue;
        release_payloads(*memory_, batch_[i].frame);
        batch_[i].link = nullptr;
    }
}

void Dispatcher::take_gil() {
    PyEval_RestoreThread(std::exchange(thread_, nullptr));
    count(bus_.counters().gil_takes);
}

void Dispatcher::give_gil() { thread_ = PyEval_SaveThread(); }

// --- one call: with the GIL -----------------------------------------------------------------------------------------

void Dispatcher::perform(Call& call) {
    Ref result;
    {
        Decoder decoder(state_, memory_, call.frame);
        Ref names;
        std::size_t positional = 0;
        arguments_.clear();
        arguments_.push_back(nullptr);
        if (read_arguments(decoder, names, positional)) {
            Ref callable = exports_->callable(*call.target);
            result = Ref(PyObject_Vectorcall(callable.get(), arguments_.data() + 1,
                                             positional | PY_VECTORCALL_ARGUMENTS_OFFSET, names.get()));
        }
        // An export has forked, and its child came back from it: the bus is the parent's, and there is nobody to answer.
        if (!memory_->is_ours()) ::_exit(EXIT_FAILURE);
        for (std::size_t i = 1; i < arguments_.size(); ++i) Py_DECREF(arguments_[i]);
    }
    if (call.frame.kind == wire::Kind::post) {
        if (!result) log_exception(state_, "the post of '" + call.target->name + "' failed", take_exception().get());
    } else if (result && encode(state_, *memory_, out_, result.get(), {"result"}, true)) {
        reply(call, out_, wire::Kind::reply);
    } else {
        answer_exception(call);
    }
}

bool Dispatcher::read_arguments(Decoder& decoder, Ref& names, std::size_t& positional) {
    while (!decoder.at_end()) {
        const wire::Cell& cell = decoder.peek();
        if (cell.tag == wire::Tag::object && (cell.flags & wire::cell_kwargs) != 0) {
            decoder.enter();
            names = Ref(PyTuple_New(cell.count));
            for (std::uint32_t i = 0; names && i < cell.count; ++i) {
                PyObject* name = decoder.next_text();
                if (name == nullptr) return false;
                PyTuple_SET_ITEM(names.get(), i, name);
                PyObject* value = decoder.next();
                if (value == nullptr) return false;
                arguments_.push_back(value);
            }
            return static_cast<bool>(names);
        }
        PyObject* value = decoder.next();
        if (value == nullptr) return false;
        arguments_.push_back(value);
        ++positional;
    }
    return true;
}

void Dispatcher::answer_exception(Call& call) {
    Ref exception = take_exception();
    Outgoing out;
    if (exception) put_exception(state_, *memory_, out, exception.get());
    reply(call, out, wire::Kind::error);
}

void Dispatcher::reply(Call& call, Outgoing& out, wire::Kind kind) {
    if (out.has_copies()) {
        late_.push_back({call.link, kind, call.index, call.frame.id, std::exchange(out, Outgoing())});
        return;
    }
    wire::Draft draft{.kind = kind, .target = call.index, .id = call.frame.id};
    draft.cells = out.values.cells();
    draft.heap = out.values.heap();
    draft.payloads = out.payloads;
    (void)call.link->answer(draft);
    const bool was_large = draft.heap.size() > most_kept_heap;
    out.release_payloads(*memory_);
    if (was_large) out = Outgoing();
    unpublished_ = true;
}

// --- answers that need no Python: with or without the GIL ---------------------------------------------------------

void Dispatcher::refuse(Call& call, Status status) {
    release_payloads(*memory_, call.frame);
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
    (void)link.answer(draft);
    unpublished_ = true;
}

/// Brings large results into the bus and answers. Without the GIL: the views keep the memory.
void Dispatcher::answer_late() {
    for (Late& late : late_) {
        if (std::exchange(late.answered, true)) continue;
        const Status settled = late.out.settle(*memory_);
        wire::Draft draft{.kind = late.kind, .target = late.index, .id = late.id};
        if (settled == Status::ok) {
            draft.cells = late.out.values.cells();
            draft.heap = late.out.values.heap();
            draft.payloads = late.out.payloads;
        } else {
            draft.kind = wire::Kind::error;
            draft.status = settled;
        }
        (void)late.link->answer(draft);
        late.out.release_payloads(*memory_);
    }
}

/// Does what had to wait for the GIL: lets go of what large results were copied from, logs. GIL held.
void Dispatcher::catch_up() {
    for (Late& late : late_) late.out.drop_copies();
    late_.clear();
    for (const std::string& name : std::exchange(unknown_posts_, {})) {
        log_exception(state_, "a post was lost: no function is exported under the name '" + name + "'", nullptr);
    }
}

}  // namespace isthmus::python
