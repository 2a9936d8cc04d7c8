// The streams that this peer serves: iterators, from which items are taken as far as there is credit.
#include <algorithm>

#include "dispatcher.hpp"
#include "errors.hpp"

namespace isthmus::python {

namespace {

constexpr std::uint64_t hold_back = 100'000;  // ns that an item may wait for the next ones
constexpr std::uint64_t slow_item = 50'000;   // ns from which an item counts as slow
constexpr std::int32_t wary_items = 64;       // after a slow one
constexpr std::uint64_t turn = 1'000'000;     // ns, after which others have theirs

}  // namespace

/// GIL held, like all that follows but for may_run and has_pumps.
void Dispatcher::open_pump(Call& call, PyObject* result) {
    Ref iterator(PyObject_GetIter(result));
    if (!iterator) {
        PyErr_Format(PyExc_TypeError, "the result can't be streamed: it is no iterable but a %s",
                     Py_TYPE(result)->tp_name);
        return answer_exception(call);
    }
    auto pump = std::make_unique<Pump>();
    pump->context = Ref(PyContext_CopyCurrent());
    wire::Draft frame = call.frame;
    frame.cells = {};
    frame.heap = {};
    frame.payloads = {};
    frame.name = {};
    pump->call = {call.link, frame, call.target, call.index, call.cancelled, nullptr};
    pump->call.info = Py_XNewRef(call.info);
    pump->iterator = std::move(iterator);
    pump->credit = frame.number;
    pump->closing = call.cancelled || call.link == nullptr;
    pumps_.push_back(std::move(pump));
}

bool Dispatcher::may_run(const Pump& pump) const {
    if (pump.running || pump.over) return false;
    if (pump.closing) return true;
    return pump.credit > 0 && (blocked_ == nullptr || may_interrupt(pump.call));
}

bool Dispatcher::has_pumps() const {
    for (const auto& pump : pumps_) {
        if (may_run(*pump)) return true;
    }
    return false;
}

void Dispatcher::run_pumps() {
    // Serving one may nest, and open others behind these.
    for (std::size_t i = 0; i < pumps_.size(); ++i) {
        if (may_run(*pumps_[i])) pump(*pumps_[i]);
    }
    if (blocked_ == nullptr) std::erase_if(pumps_, [](const auto& pump) { return pump->over && !pump->running; });
}

void Dispatcher::pump(Pump& pump) {
    const Ref info = Ref::to(pump.call.info);  // for the next turn
    {
        const Performs here(*this, pump.call, Ref::to(pump.context.get()));
        pump.running = true;
        const std::uint64_t slow = ticks_.of_ns(slow_item), late = ticks_.of_ns(hold_back), enough = ticks_.of_ns(turn);
        const std::uint64_t began = Ticks::now();
        std::uint64_t before = began, first = began;
        PyObject* const iterator = pump.iterator.get();
        const iternextfunc next = Py_TYPE(iterator)->tp_iternext;
        while (pump.credit > 0 && !pump.closing && !pump.over) {
            const Ref item(next(iterator));
            if (!item) {
                finish_pump(pump);
                break;
            }
            if (!encode(state_, *memory_, pump.out, item.get(), root_of(pump.call, "item"), true)) {
                finish_pump(pump);
                break;
            }
            --pump.credit;
            const std::uint64_t now = Ticks::now();
            if (pump.held++ == 0) first = now;
            pump.wary = now - before > slow ? wary_items : std::max(pump.wary - 1, 0);
            const auto& values = pump.out.values;
            const bool full = pump.held == most_items ||
                              values.cells().size_bytes() + values.heap().size() >= most_item_bytes ||
                              pump.out.has_copies();
            if (full || pump.wary > 0 || now - first > late) {
                if (!send_items(pump)) break;
                if (!full) publish(now);
            }
            if (now - began > enough) break;
            before = now;
        }
        if (!pump.over) (void)send_items(pump);
        pump.running = false;
        if (pump.closing && !pump.over) close_pump(pump);
    }
    if (!pump.over) pump.call.info = Py_XNewRef(info.get());
}

/// False when they could not be sent, which has ended the stream.
bool Dispatcher::send_items(Pump& pump) {
    if (pump.held == 0) return true;
    const auto items = static_cast<std::uint32_t>(std::exchange(pump.held, 0));
    Status status = Status::lost;
    if (pump.call.link != nullptr) {
        status = Status::ok;
        if (pump.out.has_copies()) {
            give_gil();
            status = pump.out.settle(*memory_);
            take_gil();
        }
        wire::Draft draft{
            .kind = wire::Kind::item, .target = pump.call.index, .id = pump.call.frame.id, .number = items};
        pump.out.fill(draft);
        if (status == Status::ok) status = bus_.submit(*pump.call.link, draft);
    }
    pump.out.drop_copies();
    pump.out.end(*memory_, status == Status::ok);
    if (status == Status::ok) return true;
    Outgoing none;
    pump.closing = pump.over = true;
    reply(pump.call, none, wire::Kind::error, status);
    close_pump(pump);
    return false;
}

/// The iterator has ended, or raised, or what it gave can't travel.
void Dispatcher::finish_pump(Pump& pump) {
    const Ref error = PyErr_Occurred() ? take_exception() : Ref();
    const bool has_ended = !error || PyErr_GivenExceptionMatches(error.get(), PyExc_StopIteration) != 0;
    if (!send_items(pump)) return;
    pump.over = true;
    if (has_ended) {
        Outgoing nothing;
        nothing.values.null();
        reply(pump.call, nothing, wire::Kind::reply);
        return;
    }
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
    answer_exception(pump.call);
    close_pump(pump);
}

/// Nobody takes its items any more: a generator's `finally` runs.
void Dispatcher::close_pump(Pump& pump) {
    const bool was_over = std::exchange(pump.over, true);
    const Ref iterator = std::move(pump.iterator);
    const bool is_generator = iterator && PyGen_Check(iterator.get());
    const Ref done(is_generator ? PyObject_CallMethod(iterator.get(), "close", nullptr) : Py_NewRef(Py_None));
    if (was_over || pump.call.link == nullptr) {
        if (!done) log_exception(state_, "a stream that nobody reads failed", take_exception().get());
    } else if (!done) {
        answer_exception(pump.call);
    } else {
        Outgoing nothing;
        reply(pump.call, nothing, wire::Kind::error,
              stop_.load(std::memory_order_relaxed) && !pump.call.cancelled ? Status::closed : Status::cancelled);
    }
}

}  // namespace isthmus::python
