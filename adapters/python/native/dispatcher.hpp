// The loop of a Python peer: sweep the links, take the GIL once, run the batch, publish once.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "calls.hpp"
#include "exports.hpp"
#include "ticks.hpp"
#include "values.hpp"

namespace isthmus::python {

// Made, run and destroyed on one thread, the peer's; only `stop` and `wake` may be called on others.
class Dispatcher {
public:
    /// `exports` may be null: then every call is answered with not_exported.
    Dispatcher(State& state, Bus& bus, std::shared_ptr<Memory> memory, Calls& calls, ExportTable* exports,
               const std::atomic<bool>& stop, bool numpy_memory);

    /// Serves until `stop` is set or the bus has ended, then answers what has been received. GIL held on entry and exit, and
    /// taken in between for each batch.
    void run();

    /// The slot of the service that calls go to; layout::max_peers when there is none.
    std::uint32_t service_slot() const { return service_slot_.load(std::memory_order_relaxed); }

private:
    void serve();

    struct Call {
        Link* link;
        wire::Draft frame;
        Export* target;
        std::uint32_t index;
        bool cancelled;
    };
    struct Late {  // an answer whose elements are still to be copied
        Link* link;
        wire::Kind kind;
        std::uint32_t index;
        std::uint64_t id;
        Outgoing out;
        bool answered = false;
    };

    void note_service();
    bool gather();
    void accept(const Bus::Received& received, std::span<const std::byte> bytes);
    void refuse_what_cannot_run();
    void run_batch();
    void perform(Call& call);
    bool read_arguments(Decoder& decoder, Ref& names, std::size_t& positional);
    void reply(Call& call, Outgoing& out, wire::Kind kind);
    void answer_exception(Call& call);
    void refuse(Call& call, Status status);
    void answer_late();
    void catch_up();
    void publish(std::uint64_t now);
    void share_numpy_memory();
    void idle();
    void farewell();
    void forget(const Link& link);

    void take_gil();
    void give_gil();
    bool has_batch() const { return next_ < batch_.size(); }

    State& state_;
    Bus& bus_;
    std::shared_ptr<Memory> memory_;
    Calls& calls_;
    ExportTable* exports_;
    const std::atomic<bool>& stop_;
    std::function<void(Link&, Status)> lost_;
    PyThreadState* thread_ = nullptr;  // null: this thread holds the GIL

    std::unique_ptr<std::byte[]> room_;
    std::size_t room_bytes_ = 0, used_ = 0;
    std::vector<Call> batch_;  // views room_
    std::size_t next_ = 0;     // in batch_
    std::vector<Late> late_;
    std::vector<std::string> unknown_posts_;  // names, still to be logged

    // Reused from call to call.
    Outgoing out_;
    std::vector<PyObject*> arguments_;

    Ticks ticks_;
    std::uint64_t published_at_ = 0;  // in ticks
    bool unpublished_ = false;
    bool shares_numpy_memory_;  // whether that was done, or is not wanted
    std::uint64_t ticked_at_ = 0;
    doorbell::Spin spin_;
    std::atomic<std::uint32_t> service_slot_{layout::max_peers};
};

}  // namespace isthmus::python
