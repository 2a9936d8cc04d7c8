// The calls that this peer makes: queued by any thread, sent and settled by the dispatcher's, awaited by the caller's or told
// to a sink.
#pragma once

#include <semaphore.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "values.hpp"

namespace isthmus::python {

/// One call on its way. `done` is posted once when `outcome` and `frame` are final, and once for each frame of items.
struct Pending {
    explicit Pending(std::shared_ptr<Memory> on) : memory(std::move(on)) { ::sem_init(&done, 0, 0); }
    ~Pending();
    Pending(const Pending&) = delete;
    Pending& operator=(const Pending&) = delete;

    using Frame = std::vector<std::byte>;

    const std::shared_ptr<Memory> memory;
    std::uint64_t id = 0;
    std::uint64_t deadline = 0;
    std::uint64_t activity = 0;
    std::uint32_t target = wire::name_only;
    std::uint32_t credit = 0;
    std::uint16_t flags = 0;
    bool is_post = false;  // over once it is sent
    std::string name;      // empty: it goes to `slot`
    Bus::Sticky sticky = Bus::not_sticky;
    std::uint32_t slot = layout::max_peers, generation = 0;
    double seconds = -1;  // its timeout, for people
    std::string refused;  // where a pickle sits that the other side did not ask for
    Outgoing out;
    PyObject* sink = nullptr;  // owned; null: somebody waits for `done`
    PyObject* tag = nullptr;   // owned
    sem_t done;

    // Guarded by the mutex of Calls until it is settled.
    Link* link = nullptr;  // once it is sent
    bool settled = false, in_events = false;
    std::string fate;                    // of the other side that was lost; empty: it was not sent
    std::atomic<bool> given_up = false;  // nothing is told to the sink any more
    bool is_over() const { return given_up || settled; }
    Status outcome = Status::ok;
    Frame frame;               // the completion; its payloads' uses go with it
    std::vector<Frame> items;  // likewise, in order
};

/// How a wait for a call ended.
enum class Awaited { settled, timed_out, interrupted };

class Calls {
public:
    // Any thread, with or without the GIL.

    /// False when the bus was left.
    bool push(const std::shared_ptr<Pending>& call);
    /// The caller waits no longer, and nothing is told to its sink any more. False when the call is settled already.
    bool give_up(std::uint64_t id);
    void credit(std::uint64_t id, std::uint32_t count);
    /// The frames of items that have come.
    std::vector<Pending::Frame> take_items(Pending& call);
    bool is_settled(Pending& call);
    bool has_work() const { return has_work_.load(std::memory_order_relaxed); }

    // The dispatcher's thread, with or without the GIL.

    void send(Bus& bus);
    /// Of what is not sent yet the posts alone: a peer that leaves has said what it said before.
    void send_posts(Bus& bus);
    /// A reply, error or item.
    void settle(Bus& bus, Link& link, const wire::Draft& frame, std::span<const std::byte> bytes, Memory& memory);
    void lost(const Link& link, Status reason, const std::string& fate);
    /// Ends those with a sink whose time has run out. The others' callers look at the clock themselves.
    void expire(std::uint64_t now);
    std::uint64_t next_deadline() const { return deadlines_.empty() ? 0 : deadlines_.begin()->first; }
    /// Settles all there are and refuses new ones.
    void end(Status reason);

    /// What is to be told to a sink.
    struct Event {
        std::shared_ptr<Pending> call;
        std::vector<Pending::Frame> items;
        bool settled;
    };
    bool has_events() const { return !events_.empty(); }
    std::vector<Event> take_events();

private:
    struct Word {  // a cancel or a credit that is still to be sent
        std::uint64_t id;
        Link* link;
        std::uint32_t credit;  // 0: cancel
    };
    /// What is known of an export's name.
    struct Known {
        Bus::Route route;
        std::vector<std::pair<const Link*, std::uint32_t>> indices;  // learned from completions
    };
    Link* link_for(Bus& bus, const Pending& call);
    void submit(Bus& bus, Link* link, const std::shared_ptr<Pending>& call);
    void send_held(Bus& bus);
    static bool is_saturated(const Link& link);
    void finish(const std::shared_ptr<Pending>& call, Status outcome);
    void note(const std::shared_ptr<Pending>& call);
    void tell(const Pending& call, std::uint32_t credit);

    std::atomic<bool> has_work_{false};  // for the dispatcher: something waits in the outbox or in words
    std::mutex mutex_;                   // guards what follows
    bool ended_ = false;
    std::uint64_t last_id_ = 0;
    std::vector<std::shared_ptr<Pending>> outbox_;
    std::vector<Word> words_;
    std::unordered_map<std::uint64_t, std::shared_ptr<Pending>> calls_;  // that are not settled nor given up

    // The dispatcher's alone.
    std::unordered_map<const Link*, std::deque<std::shared_ptr<Pending>>> held_;  // until earlier ones are answered
    std::unordered_map<std::string, Known> known_;
    std::vector<std::shared_ptr<Pending>> events_;
    using Deadline = std::pair<std::uint64_t, std::uint64_t>;  // with the call's id
    std::set<Deadline> deadlines_;                             // of calls with a sink
    std::vector<Deadline> given_up_;                           // guarded by mutex_: to be taken out of deadlines_
};

}  // namespace isthmus::python
