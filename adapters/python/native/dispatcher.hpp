// The loop of a Python peer: sweep the links, take the GIL once, run the batch, publish once.
//
//   dispatcher.cpp  the loop                      perform.cpp  one call
//   receive.cpp     frames in, links lost         pumps.cpp    the streams that it serves
//   answer.cpp      replies and refusals          nested.cpp   serving while an export waits for a call of its own
//   hand_over.cpp   what others perform, and what they are told
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "calling.hpp"
#include "calls.hpp"
#include "deferred.hpp"
#include "exports.hpp"
#include "turns.hpp"
#include "values.hpp"

namespace isthmus::python {

/// One more, of a counter that the dispatcher's thread alone writes.
inline void count(layout::Word64& counter) {
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

// Made, run and destroyed on one thread, the peer's.
class Dispatcher {
public:
    struct Parts {
        State& state;
        Bus& bus;
        std::shared_ptr<Memory> memory;
        Calls& calls;
        Deferred& deferred;
        Hooks& hooks;
        ExportTable* exports;  // null: then every call by name is answered with not_exported
        const std::atomic<bool>&stop, &drain;
        bool numpy_memory;
    };
    explicit Dispatcher(const Parts& parts);

    /// Serves until `stop` is set or the bus has ended, then answers what has been received; or, once `drain` is set, until
    /// nobody can be waiting for an answer any more. GIL held on entry and exit, and
    /// taken in between for each batch.
    void run();
    /// Shows the exports' names to the other peers, if there are more than were shown.
    void publish_exports();

    /// The slot of the service that calls go to; layout::max_peers when there is none. Any thread.
    std::uint32_t service_slot() const { return service_slot_.load(std::memory_order_relaxed); }

    // What follows: on this thread, in the midst of a call, with the GIL held.

    /// The one that runs on the calling thread.
    static Dispatcher* of_this_thread();
    /// Whether the calling thread is that of this memory's bus.
    static bool serves_here(const Memory& memory) {
        const Dispatcher* here = of_this_thread();
        return here != nullptr && here->memory_.get() == &memory;
    }
    const Memory& memory() const { return *memory_; }
    bool performs() const { return serving_ != nullptr; }
    Calling calling() const;
    /// The Call that is being performed, as a new reference.
    PyObject* info();
    /// Receives what has come, so that a cancelled call learns of it.
    void look();

    /// Waits until `done` of the call is posted. Meanwhile serves the calls of its activity, and all that needs no order.
    Awaited await(Pending& call, std::uint64_t until);

private:
    static constexpr std::size_t most_calls = 256;  // of a batch
    static constexpr std::size_t all = SIZE_MAX;

    struct Call {
        Link* link;  // null: nobody waits for an answer
        wire::Draft frame;
        Export* target;
        std::uint32_t index;
        bool cancelled;
        std::shared_ptr<std::byte[]> bytes;  // that `frame` views, if not the room's
        Call* outer = nullptr;               // that was being performed when this one began
        PyObject* info = nullptr;            // owned
    };
    struct Late {  // an answer whose elements are still to be copied
        Link* link;
        wire::Kind kind;
        std::uint32_t index;
        std::uint64_t id;
        Outgoing out;
        bool answered = false;
    };
    struct Scratch {  // reused from call to call
        Outgoing out;
        std::vector<PyObject*> arguments;
    };
    struct Blocked {  // a call that this thread waits for
        std::uint64_t activity;
        const Pending* call;
        Blocked* outer;
    };
    struct Pump {  // an iterator whose items somebody is sent
        Call call;
        Ref iterator;
        Ref context;  // with the variables of its call
        std::uint64_t credit;
        Outgoing out;
        std::uint32_t held = 0;  // items in out
        std::int32_t wary = 8;   // items yet to come that are sent at once: the next one may take long
        bool running = false, closing = false, over = false;
    };
    class Performs;

    // dispatcher.cpp
    void serve();
    void sweep();
    void note_service();
    void run_batch();
    void publish(std::uint64_t now);
    void share_numpy_memory();
    bool is_drained();
    std::uint32_t load() const;
    void idle(std::uint64_t until);
    bool wants_gil() const;
    void farewell();
    void take_gil();
    void give_gil();
    bool has_batch() const { return next_ < batch_.size(); }

    // receive.cpp
    bool gather();
    void await_cancels();
    void unpark();
    void park_the_rest();
    Call take_parked();
    static std::size_t bytes_of(const Call& call) { return call.frame.heap.size() + call.frame.cells.size_bytes(); }
    bool may_park() const;
    bool receive_aside(std::size_t most);
    void make_room(std::size_t bytes);
    void accept(const Bus::Received& received, std::span<const std::byte> bytes, bool to_batch);
    void park(const Bus::Received& received, std::span<const std::byte> bytes);
    void cancel(const Link& link, std::uint64_t id);
    void grant(const Link& link, std::uint64_t id, std::uint32_t count);
    void find_parked_targets();
    void find_target(Call& call);
    bool refuse_if_late(Call& call);
    void refuse_what_cannot_run();
    void forget(const Link& link);

    // perform.cpp
    void perform(Call& call, Scratch& scratch);
    Ref operate(Call& call, Decoder& decoder);
    bool read_arguments(Decoder& decoder, std::size_t parcels, std::vector<PyObject*>& arguments, Ref& names,
                        std::size_t& positional);
    void conclude(Call& call, Scratch& scratch, Ref result);
    Root root_of(const Call& call, const char* name) const;
    PyObject* info_of(Call& call);
    static bool tells_origin(const Call& call) { return call.frame.activity != 0 || call.index >= wire::operation; }

    // hand_over.cpp
    bool defer(Call& call, PyObject* what, PyObject* args, PyObject* kwargs);
    bool defer_call(Call& call, PyObject* callable, const std::vector<PyObject*>& arguments, PyObject* names,
                    std::size_t positional);
    void hand_over();
    void deliver();
    void deliver_events();
    void deliver_news();

    // answer.cpp
    void reply(Call& call, Outgoing& out, wire::Kind kind, Status status = Status::ok);
    void answer_exception(Call& call);
    void refuse(Call& call, Status status);
    void answer_late();
    void catch_up();

    // pumps.cpp
    void open_pump(Call& call, PyObject* result);
    void run_pumps();
    void pump(Pump& pump);
    void finish_pump(Pump& pump);
    void close_pump(Pump& pump);
    bool send_items(Pump& pump);
    bool may_run(const Pump& pump) const;
    bool has_pumps() const;

    // nested.cpp
    bool may_interrupt(const Call& call) const;
    bool has_interrupting() const;
    void serve_nested();

    State& state_;
    Bus& bus_;
    std::shared_ptr<Memory> memory_;
    Calls& calls_;
    Deferred& deferred_;
    Hooks& hooks_;
    ExportTable* exports_;
    const std::atomic<bool>&stop_, &drain_;
    bool retired_ = false;
    std::uint64_t quiet_since_ = 0;  // ns, once retired: when there was nothing left to do; 0: there is
    std::function<void(Link&, Status)> lost_;
    PyThreadState* thread_ = nullptr;  // null: this thread holds the GIL
    Export objects_;                   // stands for what is no export: objects that are called, operations
    std::vector<Export*> targets_;     // by index, those that were called; null: not yet

    std::shared_ptr<std::byte[]> room_;
    std::size_t room_bytes_ = 0, used_ = 0;
    std::vector<Call> batch_;           // views room_
    std::size_t next_ = 0;              // in batch_
    std::size_t at_most_ = most_calls;  // calls of the next batch
    Turns<Link, Call> parked_;          // received ahead of their turn
    std::size_t parked_bytes_ = 0;
    std::uint64_t crowded_ = 0;  // a bit for each peer of which so much is parked that the rest stays where it is
    std::uint64_t took_ = 0;     // ns, of the last batch
    bool saw_cancel_ = false;
    bool was_slow_ = false;  // the last batch took long: what has come meanwhile is looked at for cancels first
    std::vector<Late> late_;
    std::vector<std::string> unknown_posts_;  // names, still to be logged
    std::vector<std::unique_ptr<Pump>> pumps_;
    Ref handing_over_;  // list of what Bus.runner is given next

    Call* serving_ = nullptr;  // the innermost
    std::uint32_t depth_ = 0;  // of those that are being performed
    Ref base_context_;         // what each call finds; null: to be made, while none is performed
    Ref spare_context_;        // likewise, and of no call
    Blocked* blocked_ = nullptr;

    Scratch scratch_;
    std::shared_ptr<ShortSlice> prompt_ = ShortSlice::of_this_thread();
    Ticks ticks_;
    std::uint64_t published_at_ = 0;  // in ticks
    bool unpublished_ = false;
    bool shares_numpy_memory_;  // whether that was done, or is not wanted
    std::size_t shown_exports_ = 0;
    std::uint64_t attended_at_ = 0, ticked_at_ = 0;  // in ticks
    doorbell::Spin spin_;
    std::atomic<std::uint32_t> service_slot_{layout::max_peers};
};

/// Makes a call the one that is being performed, for a scope, with context variables of its own: in `context`, or in a copy of the
/// thread's. One in which nothing was set serves the next call, too.
class Dispatcher::Performs {
public:
    Performs(Dispatcher& dispatcher, Call& call, Ref context = {})
        : dispatcher_(dispatcher), call_(call), is_fresh_(!context) {
        call.outer = std::exchange(dispatcher.serving_, &call);
        ++dispatcher.depth_;
        Ref& base = dispatcher.base_context_;
        if (!base) base = Ref(PyContext_CopyCurrent());
        context_ = std::move(is_fresh_ ? dispatcher.spare_context_ : context);
        if (!context_ && base) context_ = Ref(PyContext_Copy(base.get()));
        if (context_ && PyContext_Enter(context_.get()) == 0) return;
        PyErr_Clear();
        context_ = Ref();
    }
    ~Performs() {
        dispatcher_.serving_ = call_.outer;
        --dispatcher_.depth_;
        if (call_.info != nullptr) Py_CLEAR(call_.info);
        if (!context_) return;
        (void)PyContext_Exit(context_.get());
        if (!is_fresh_) return;
        const int is_untouched = PyObject_RichCompareBool(context_.get(), dispatcher_.base_context_.get(), Py_EQ);
        if (is_untouched == 1) dispatcher_.spare_context_ = std::move(context_);
        if (is_untouched < 0) PyErr_Clear();
    }
    Performs(const Performs&) = delete;
    Performs& operator=(const Performs&) = delete;

private:
    Dispatcher& dispatcher_;
    Call& call_;
    bool is_fresh_;
    Ref context_;
};

}  // namespace isthmus::python
