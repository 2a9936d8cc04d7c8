// The calls that this peer makes: queued by any thread, sent and settled by the dispatcher's, awaited by the caller's.
#pragma once

#include <semaphore.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "values.hpp"

namespace isthmus::python {

/// One call on its way. `done` is posted once, when `outcome` and `frame` are final.
struct Pending {
    Pending() { ::sem_init(&done, 0, 0); }
    ~Pending() { ::sem_destroy(&done); }
    Pending(const Pending&) = delete;
    Pending& operator=(const Pending&) = delete;

    std::uint64_t id = 0;
    std::uint64_t deadline = 0;
    std::string name;
    Outgoing out;
    Link* link = nullptr;  // once it is sent; the dispatcher's
    sem_t done;
    Status outcome = Status::ok;
    std::vector<std::byte> frame;  // the completion; its payloads' uses go with it
};

class Calls {
public:
    // Any thread, without the GIL.

    /// False when the bus was left.
    bool push(const std::shared_ptr<Pending>& call);
    /// The caller waits no longer. False when the call is settled already.
    bool abandon(Pending& call, Memory& memory);
    bool has_work() const { return has_work_.load(std::memory_order_relaxed); }

    // The dispatcher's thread, without the GIL.

    void send(Bus& bus, Memory& memory);
    void settle(Link& link, const wire::Draft& frame, std::span<const std::byte> bytes, Memory& memory);
    void lost(const Link& link, Status reason);
    /// Settles all there are and refuses new ones.
    void end(Status reason, Memory& memory);

private:
    struct Cancel {
        std::uint64_t id;
        Link* link;
    };
    void finish(Pending& call, Status outcome);

    std::atomic<bool> has_work_{false};  // for the dispatcher: something waits in the outbox or in cancels
    std::mutex mutex_;                   // guards what follows
    bool ended_ = false;
    std::uint64_t last_id_ = 0;
    std::vector<std::shared_ptr<Pending>> outbox_;
    std::vector<Cancel> cancels_;
    std::unordered_map<std::uint64_t, std::shared_ptr<Pending>> sent_;
    std::unordered_map<const Link*, std::unordered_map<std::string, std::uint32_t>>
        indices_;  // learned from completions
};

}  // namespace isthmus::python
