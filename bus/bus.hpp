// The face: join, call, poll, reply. All that adapters include.
//
// A Bus is one peer: one JavaScript isolate or one Python interpreter. The thread that joins is the peer's thread: it alone
// may call what is not marked otherwise, and its death is the peer's death.
//
//   loop:  receive until empty -> work -> submit/answer -> flush -> wait (or arm, sleep elsewhere, disarm)
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "bus/board.hpp"
#include "bus/broker.hpp"
#include "bus/census.hpp"
#include "bus/keeper.hpp"
#include "bus/lending.hpp"
#include "bus/link.hpp"
#include "bus/slice.hpp"

namespace isthmus {

class Bus {
public:
    /// Takes the place that the broker gave; the calling thread becomes the peer. `pickles`: others are told that it takes
    /// them. Throws Error.
    static std::unique_ptr<Bus> join(rendezvous::Invitation invitation, bool pickles = false);
    /// Leaves: ends all links, gives back all leases and memory. The same thread as join. Memory of the arena must not be
    /// touched afterwards.
    ~Bus();
    Bus(const Bus&) = delete;
    Bus& operator=(const Bus&) = delete;
    /// In a forked child, which is not the peer: closes the control socket, so that the parent's end is noticed. The object
    /// must not be used, nor destroyed, afterwards.
    void forsake() noexcept;

    std::uint32_t slot() const { return slot_; }
    std::uint32_t generation() const { return generation_; }
    const std::string& name() const { return name_; }
    layout::Counters& counters() { return segment_->peer(slot_).counters; }
    /// Blocks and leases. Any thread of the peer.
    Arena& arena() { return *arena_; }

    /// Every link that stands, in no order.
    std::span<const std::unique_ptr<Link>> links() const { return links_; }
    /// The link to a peer, made at once when there is none; null when the peer is gone. Frames wait until it has attached.
    Link* link_to(std::uint32_t slot, std::uint32_t generation);

    /// Shows what this peer exports, in place of what it showed before. too_large, no_memory.
    [[nodiscard]] Status publish_exports(std::span<const std::string> names);
    /// What is known of who exports a name. Kept by the caller from call to call; links must not be kept.
    struct Route {
        std::string name;  // empty: every service
        std::uint64_t epoch = 0;
        std::vector<Link*> providers;
        bool was_exported = false;  // somebody has shown the name
    };
    /// What keeps calls on one of several that export the same, as long as it takes calls: nothing, that they are this
    /// caller's, or a key, which leads all callers to the same.
    enum Sticky : std::uint32_t { not_sticky = 0, by_caller = 1 };
    static Sticky sticky_key(std::string_view key);
    /// The link to the peer that exports the name, to the one with the least to do where several do, and to a service where
    /// nobody ever said so: it knows which names are close. Null when who exported it is gone, and when there is no service.
    Link* provider(Route& route, Sticky sticky = not_sticky);
    /// The link to the service with the least to do; null when there is none (any more).
    Link* service() { return provider(services_); }

    /// Has all others turn elsewhere with their next call by name. Any thread.
    void decline() { segment_->peer(slot_).retiring.store(1, std::memory_order_relaxed); }  // a hint, until retire
    /// Takes no more calls by name (bus/peers.hpp): shows no exports any more, and asks for the last word of each peer. What they
    /// have sent by then still comes, and so do calls of this peer's objects.
    void retire();
    /// Whether the other side takes calls by name: it does until it retires.
    bool takes_calls(const Link& link) const { return peers::takes_calls(segment_->peer(link.ends().other).retiring); }
    /// Whether no call by name will come any more, after retire.
    bool is_left_alone() const;
    /// Tells others how many calls have come and were not answered yet.
    void show_load(std::uint32_t calls) {
        segment_->peer(slot_).load.store(calls, std::memory_order_relaxed);  // a hint: it needs no order
    }

    /// Sends a call, post, item, credit or cancel: Link::submit, and counts the references that go with it.
    /// A cancel takes back a call that has not been sent; its completion, of status cancelled, is received from here then.
    [[nodiscard]] Status submit(Link& link, const wire::Draft& draft);
    /// Cancels a call of which nothing is awaited any more. True when it had not been sent: it is over, and no completion comes.
    bool give_up(Link& link, std::uint64_t id);
    /// Sends a reply or error: Link::answer, likewise. The call has ended whatever is returned.
    [[nodiscard]] Status answer(Link& link, const wire::Draft& draft);
    /// This peer has dropped its last reference to another's object, of which it was sent `uses`. Told with the next flush.
    void give_back(std::uint32_t slot, std::uint32_t generation, std::uint64_t id, std::uint32_t uses);
    /// This peer's objects to which nobody refers any more, each once.
    std::vector<std::uint64_t> take_free() { return lending_.take_free(); }
    bool has_free() const { return lending_.has_free(); }
    /// Gives back what came with a frame that nobody reads: its payloads, and its references.
    void discard(const wire::Draft& frame);

    struct Received {
        Status status;  // ok; empty; too_large: give `bytes` of room and ask again
        Link* link;
        wire::Draft frame;  // views the room; one use of each payload is the caller's to release
        std::uint64_t bytes;
    };
    /// The next frame of any link (call, post, reply, error, cancel, item, credit), the links taking turns so that a flooder
    /// does not crowd out the others. Of peers whose bit, by their slots, is in `later` nothing is received now. When there is
    /// none, what waits for room in the links' backlogs is moved on.
    Received receive(std::span<std::byte> room, std::uint64_t later = 0);

    /// Publishes on every link that was used and wakes who sleeps.
    void flush();

    /// Looks after those who came and went: opens links to those who attached, drops links to the dead. `lost` is told of
    /// each link right before it is destroyed, with the reason. Cheap when nothing changed; receive calls for it in between.
    void attend(const std::function<void(Link&, Status)>& lost);

    /// Whether receive, flush or attend has something to do.
    bool ready();
    /// Whether receive or flush has, as far as the rings tell: for looking often. Who comes and goes is looked at before sleeping.
    bool has_traffic() const;
    /// Spins, then sleeps until something is there, another thread calls wake(), or the deadline passes. True if something
    /// may be there.
    bool wait(doorbell::Deadline deadline);
    /// Spins only; for an event loop that is about to sleep.
    bool spin(doorbell::Deadline deadline);
    /// For a loop that sleeps by itself on bell(): announce it (true: something is there, do not sleep) …
    bool arm();
    /// … and take it back. Does nothing when not armed.
    void disarm();
    /// The eventfd to poll.
    int bell() const { return bell_->get(); }
    /// To be called when bell() was found readable: a poster may write it late, when its ring was expected no more.
    void silence() { doorbell::silence(bell_->get()); }
    /// Wakes the peer's thread. Any thread.
    void wake();

    /// Chores of an idle peer: answers attachments that could not be answered, ends transit leases. Call about once a second.
    void tick();

    /// Whether the broker is gone, or has dropped this peer: the bus has ended.
    bool closed() const;

    /// Another peer's counters, straight from the segment; null when no such peer is there.
    const layout::Counters* counters_of(std::uint32_t slot) const;
    const layout::Peer& peer(std::uint32_t slot) const { return segment_->peer(slot); }
    /// What a peer shows that it exports.
    std::vector<std::string> exports_of(std::uint32_t slot) const {
        return board::read(*segment_, slot,
                           layout::generation_of(segment_->peer(slot).life.load(std::memory_order_acquire)));
    }
    /// What a peer calls itself, for a person.
    std::string label(std::uint32_t slot) const;
    /// What has become of the peer of a link that is lost: who it was and how it went, as far as that is known. Part of a sentence.
    std::string fate(const Link& link, Status reason) const;
    /// Who has what of the memory, read from the segment. Any thread.
    Census census() const { return isthmus::census(arena_memory(*segment_)); }
    /// How much of it one peer may own, in bytes.
    std::uint64_t quota() const { return segment_->header().quota_bytes; }
    /// Why an allocation of so many bytes was refused, and what to do, in one sentence. Any thread.
    std::string shortage(Status refusal, std::uint64_t bytes) const;

    /// Keeps the segment mapped, also after the peer has left. Its blocks belong to others then.
    std::shared_ptr<const void> mapping() const { return segment_; }
    /// A descriptor of the segment and where the arena lies in it, for mapping it once more (a SharedArrayBuffer).
    int memory_fd() const { return segment_->fd(); }
    std::uint64_t arena_offset() const { return segment_->geometry().arena; }

private:
    Bus() = default;
    Status open(std::uint32_t other, std::uint32_t generation, Fd bell = {});
    Link* find(std::uint32_t slot, std::uint32_t generation) const;
    bool is_live(std::uint32_t slot, std::uint32_t generation) const;
    bool stands(const Link& link) const;
    void find_providers(Route& route);
    Link* choose(const Route& route, Sticky sticky);
    Link* least_loaded(const Route& route) const;
    Link* keyed(const Route& route, Sticky key) const;
    void try_again();
    void fetch_bells();
    void lend(Link& link, const wire::Draft& draft);
    void unlend(const Link& link, const wire::Draft& draft);
    bool keep_accounts(Link& link, const wire::Draft& frame);
    void send_releases();
    Received notice();

    std::shared_ptr<Segment> segment_;
    std::shared_ptr<Fd> bell_;
    std::unique_ptr<rendezvous::Conversation> broker_;
    std::unique_ptr<SegmentPages> pages_;
    std::unique_ptr<Keeper> keeper_;
    std::unique_ptr<Arena> arena_;
    std::string name_;
    std::uint32_t slot_ = 0;
    std::uint32_t generation_ = 0;
    std::vector<std::unique_ptr<Link>> links_;
    std::uint64_t epoch_ = 1;  // of the links and of what peers export; routes of another epoch are looked up anew
    Route services_;
    std::vector<Link*> homes_;  // by_caller's choices, one of those that export the same
    bool retiring_ = false;
    Lending lending_;
    std::unordered_map<std::uint64_t, std::vector<wire::Cell>> releases_;  // by the owner's place; pairs of id and uses
    struct Notice {  // what is received without a frame of its own
        Link* link;
        wire::Kind kind;
        Status status;
        std::uint64_t id;
    };
    std::deque<Notice> notices_;
    std::size_t turn_ = 0;
    std::uint32_t in_turn_ = 0;
    std::uint64_t seen_[layout::max_peers] = {};  // attachments that were dealt with
    std::uint64_t put_off_ = 0;                   // those of them that could not be answered, by slot
    doorbell::Deadline put_off_until_{};
    std::uint64_t bells_wanted_ = 0;  // slots of links without their bell
    std::uint64_t bells_asked_ = 0;   // those of them that the broker was asked for
    doorbell::Spin spin_;
    bool armed_ = false;
    std::shared_ptr<std::atomic<bool>> cut_off_ = std::make_shared<std::atomic<bool>>(false);  // set by watch_
    std::optional<peers::Watch> watch_;
};

}  // namespace isthmus
