#include "bus/bus.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace isthmus {

using namespace std::chrono_literals;
using peers::count;

namespace {

constexpr std::uint32_t frames_per_turn = 64;  // of one link, before the next has its turn

constexpr std::uint64_t most_uses = std::uint64_t{1} << 40;  // a hostile count must not overflow the sum

constexpr std::size_t most_accounts = 1 << 16;  // cells of a frame that releases, shares or cancels

constexpr std::uint64_t bit(std::uint32_t slot) { return std::uint64_t{1} << slot; }

bool readable(int socket) {
    pollfd one{socket, POLLIN, 0};
    return ::poll(&one, 1, 0) > 0;
}

bool hung_up(int socket) {
    pollfd one{socket, POLLRDHUP, 0};
    return ::poll(&one, 1, 0) > 0 && (one.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}

}  // namespace

std::unique_ptr<Bus> Bus::join(rendezvous::Invitation invitation, bool pickles) {
    std::unique_ptr<Bus> bus(new Bus);
    bus->segment_ = std::make_shared<Segment>(Segment::open(std::move(invitation.memory)));
    bus->bell_ = std::make_shared<Fd>(std::move(invitation.bell));
    bus->broker_ = std::make_unique<rendezvous::Conversation>(std::move(invitation.socket));
    bus->name_ = std::move(invitation.bus);
    bus->slot_ = invitation.slot;
    bus->generation_ = invitation.generation;
    const Segment& segment = *bus->segment_;
    auto& peer = segment.peer(bus->slot_);
    bus->pages_ = std::make_unique<SegmentPages>(segment);
    bus->keeper_ = std::make_unique<Keeper>(*bus->pages_);
    bus->arena_ =
        std::make_unique<Arena>(arena_memory(segment), *bus->keeper_, bus->slot_, bus->generation_, peer.counters);
    bus->keeper_->mind(*bus->arena_);
    bus->arena_->set_quota(segment.header().quota_bytes);
    bus->arena_->set_poisoning(std::getenv("ISTHMUS_POISON") != nullptr);

    if (peers::start_pulse(peer.pulse, doorbell::Clock::now() + 1s) != Status::ok) {
        throw Error(Status::timed_out, "the place on the bus is still being cleared: try again");
    }
    peer.pickles.store(pickles ? 1 : 0, std::memory_order_relaxed);  // relaxed: going live releases it
    std::uint64_t joining = layout::life(bus->generation_, layout::Phase::joining);
    if (!peer.life.compare_exchange_strong(joining, layout::life(bus->generation_, layout::Phase::live),
                                           std::memory_order_acq_rel)) {
        peers::stop_pulse(peer.pulse);
        throw Error(Status::closed, "the bus '" + bus->name_ + "' ended while this peer was joining");
    }
    bus->broker_->live();
    // Not from inside of the broker's own process: it dies with this peer, and of all who wait for a pulse the kernel wakes one,
    // which must be one that lives to wake the next.
    if (segment.header().broker_pid != static_cast<std::uint32_t>(::getpid())) {
        bus->watch_.emplace(
            bus->segment_, segment.header().broker_pulse,
            [segment = bus->segment_, bell = bus->bell_, slot = bus->slot_, cut_off = bus->cut_off_] {
                cut_off->store(true, std::memory_order_release);
                segment->peer(slot).asleep.store(0, std::memory_order_relaxed);
                doorbell::ring(bell->get());
            },
            [socket = bus->broker_->socket()] { return hung_up(socket->get()); });
    }
    for (auto& service : invitation.services) {
        const Status opened = bus->open(service.slot, service.generation, std::move(service.bell));
        if (opened != Status::ok) throw Error(opened);
    }
    return bus;
}

Bus::~Bus() {
    watch_.reset();
    if (!arena_) return;
    flush();
    std::vector<std::pair<std::uint32_t, Fd>> doors;
    for (const auto& link : links_) {
        if (stands(*link) && link->has_bell()) doors.emplace_back(link->ends().other, link->take_bell());
    }
    keeper_->stop();
    links_.clear();
    arena_->leave();
    auto& peer = segment_->peer(slot_);
    std::uint64_t live = layout::life(generation_, layout::Phase::live);
    if (peer.life.compare_exchange_strong(live, layout::life(generation_, layout::Phase::left),
                                          std::memory_order_acq_rel)) {
        for (const auto& [other, door] : doors) {
            segment_->peer(other).asleep.store(0, std::memory_order_relaxed);
            doorbell::ring(door.get());
        }
        peers::stop_pulse(peer.pulse);
    } else if (layout::generation_of(live) == generation_ && layout::phase_of(live) != layout::Phase::joining) {
        peers::stop_pulse(peer.pulse);
    }
}

void Bus::forsake() noexcept { ::close(broker_->socket()->give()); }

Status Bus::open(std::uint32_t other, std::uint32_t generation, Fd bell) {
    auto [status, link] = Link::open(*segment_, *arena_, {slot_, generation_, other, generation}, std::move(bell));
    if (status != Status::ok) return status;
    if (!link->has_bell()) bells_wanted_ |= bit(other);
    peers::meet(segment_->peer(other).retiring);
    if (retiring_) link->ask_last_word();
    keeper_->add_chore(link.get(), [link = link.get()] { link->end_transits(); });
    links_.push_back(std::move(link));
    ++epoch_;
    return status;
}

Link* Bus::find(std::uint32_t slot, std::uint32_t generation) const {
    for (const auto& link : links_) {
        if (link->ends().other == slot && link->ends().other_generation == generation) return link.get();
    }
    return nullptr;
}

bool Bus::is_live(std::uint32_t slot, std::uint32_t generation) const {
    return slot < layout::max_peers &&
           segment_->peer(slot).life.load(std::memory_order_acquire) == layout::life(generation, layout::Phase::live);
}

Link* Bus::link_to(std::uint32_t slot, std::uint32_t generation) {
    if (Link* known = find(slot, generation)) return known;
    if (slot == slot_ || !is_live(slot, generation) || open(slot, generation) != Status::ok) return nullptr;
    fetch_bells();
    return links_.back().get();
}

/// Asks the broker for the eventfds that links still lack, and takes those that have come.
void Bus::fetch_bells() {
    for (std::uint64_t left = bells_wanted_ & ~bells_asked_; left != 0; left &= left - 1) {
        const auto slot = static_cast<std::uint32_t>(std::countr_zero(left));
        for (const auto& link : links_) {
            if (link->ends().other == slot && !link->has_bell() &&
                broker_->ask_door(slot, link->ends().other_generation)) {
                bells_asked_ |= bit(slot);
            }
        }
    }
    if (bells_asked_ == 0) return;
    while (auto door = broker_->take_door()) {
        if (door->slot >= layout::max_peers) continue;
        Link* const link = find(door->slot, door->generation);
        if (link == nullptr) continue;  // of the one before it in this place
        bells_wanted_ &= ~bit(door->slot);
        bells_asked_ &= ~bit(door->slot);
        link->set_bell(std::move(door->bell));
    }
}

Status Bus::publish_exports(std::span<const std::string> names) {
    return board::publish(*segment_, slot_, generation_, names);
}

void Bus::find_providers(Route& route) {
    route.epoch = 0;
    route.providers.clear();
    if (closed()) return;
    for (std::uint32_t slot = 0; slot < layout::max_peers; ++slot) {
        const layout::Peer& peer = segment_->peer(slot);
        const std::uint64_t life = peer.life.load(std::memory_order_acquire);
        if (slot == slot_ || layout::phase_of(life) != layout::Phase::live) continue;
        const std::uint32_t generation = layout::generation_of(life);
        if (route.name.empty()) {
            if (peer.service == 0) continue;
        } else {
            const auto names = board::read(*segment_, slot, generation);
            if (std::find(names.begin(), names.end(), route.name) == names.end()) continue;
            route.was_exported = true;
        }
        Link* link = link_to(slot, generation);
        if (link != nullptr && takes_calls(*link)) route.providers.push_back(link);
    }
    route.epoch = epoch_;
}

/// Of those that take calls; null when none does. What this peer awaits there counts, or what others have there as well: the
/// callee's own word lags behind the former.
Link* Bus::least_loaded(const Route& route) const {
    const std::size_t count = route.providers.size();
    Link* best = nullptr;
    std::pair<std::uint64_t, std::uint64_t> least;
    for (std::size_t i = 0; i < count; ++i) {
        // Callers that find all idle begin with different ones.
        Link* link = route.providers[(slot_ + i) % count];
        if (link->state() != Status::ok || !takes_calls(*link)) continue;
        // Of equals the one that this caller awaits the least of, whose word may be the older one.
        const std::uint64_t own = link->in_flight() + link->waiting();
        const auto& word = segment_->peer(link->ends().other).load;
        const std::pair load(count == 1 ? own : std::max<std::uint64_t>(own, word.load(std::memory_order_relaxed)),
                             own);
        if (best != nullptr && load >= least) continue;
        best = link;
        least = load;
    }
    return best;
}

Bus::Sticky Bus::sticky_key(std::string_view key) {
    std::uint32_t hash = 0x811c9dc5;  // FNV-1a
    for (const char byte : key) hash = (hash ^ static_cast<std::uint8_t>(byte)) * 0x01000193;
    return static_cast<Sticky>(std::max<std::uint32_t>(hash, by_caller + 1));
}

/// Each worker bids for the key, by its number. So when one goes only its keys move, and they come back with who takes its place.
/// Those that have the same number, being of several services or none, bid by their places.
Link* Bus::keyed(const Route& route, Sticky key) const {
    const auto bid_by = [key](std::uint32_t number) {
        std::uint64_t bid = std::uint64_t{key} << 32 | number;
        bid = (bid ^ bid >> 30) * 0xbf58476d1ce4e5b9;  // the finalizer of SplitMix64
        bid = (bid ^ bid >> 27) * 0x94d049bb133111eb;
        return bid ^ bid >> 31;
    };
    Link* best = nullptr;
    std::pair<std::uint64_t, std::uint64_t> highest;
    for (Link* link : route.providers) {
        if (link->state() != Status::ok || !takes_calls(*link)) continue;
        const std::uint32_t slot = link->ends().other;
        const std::pair bid(bid_by(segment_->peer(slot).service), bid_by(slot));
        if (best != nullptr && bid <= highest) continue;
        best = link;
        highest = bid;
    }
    return best;
}

Link* Bus::choose(const Route& route, Sticky sticky) {
    if (sticky == not_sticky) return least_loaded(route);
    if (sticky != by_caller) return keyed(route, sticky);
    for (Link* link : route.providers) {
        const bool is_home = std::find(homes_.begin(), homes_.end(), link) != homes_.end();
        if (is_home && link->state() == Status::ok && takes_calls(*link)) return link;
    }
    Link* best = least_loaded(route);
    if (best != nullptr) homes_.push_back(best);
    return best;
}

Link* Bus::provider(Route& route, Sticky sticky) {
    Link* best = route.epoch == epoch_ ? choose(route, sticky) : nullptr;
    if (best == nullptr) {
        find_providers(route);
        best = choose(route, sticky);
    }
    return best != nullptr || route.name.empty() || route.was_exported ? best : service();
}

// --- retiring ------------------------------------------------------------------------------------------------------

void Bus::retire() {
    retiring_ = true;
    peers::retire(segment_->peer(slot_).retiring);
    (void)publish_exports({});
    for (const auto& link : links_) link->ask_last_word();
}

bool Bus::is_left_alone() const {
    if (put_off_ != 0) return false;
    const auto& row = segment_->attachments(slot_);
    for (std::uint32_t other = 0; other < layout::max_peers; ++other) {
        if (row.from[other].load(std::memory_order_relaxed) != seen_[other]) return false;
    }
    return std::all_of(links_.begin(), links_.end(), [](const auto& link) { return link->is_left_alone(); });
}

// --- references ----------------------------------------------------------------------------------------------------

/// Counts the references in a frame that is about to be sent: own objects for the receiver, others' with their owners.
void Bus::lend(Link& link, const wire::Draft& draft) {
    if ((draft.flags & wire::frame_references) == 0) return;
    for (const wire::Cell& cell : draft.cells) {
        if (cell.tag != wire::Tag::reference) continue;
        const std::uint32_t owner = wire::owner_of(cell);
        if (owner == slot_ && cell.count == generation_) {
            lending_.lend(wire::id_of(cell), link.ends().other);
            continue;
        }
        if (owner == link.ends().other && cell.count == link.ends().other_generation) continue;
        // The owner is told before the receiver can use it, on the link on which this peer's own release will follow.
        Link* to_owner = link_to(owner, cell.count);
        if (to_owner == nullptr) continue;  // the owner is gone, which the receiver will find
        wire::Values values;
        values.integer(static_cast<std::int64_t>(wire::id_of(cell)));
        values.integer(link.ends().other);
        values.integer(link.ends().other_generation);
        // An owner that can't be told now gives the object up when this peer does: the receiver is told so then.
        (void)to_owner->submit({.kind = wire::Kind::share, .cells = values.cells()});
        to_owner->publish();
    }
}

void Bus::unlend(const Link& link, const wire::Draft& draft) {
    if ((draft.flags & wire::frame_references) == 0) return;
    for (const wire::Cell& cell : draft.cells) {
        if (cell.tag == wire::Tag::reference && wire::owner_of(cell) == slot_ && cell.count == generation_)
            lending_.lend(wire::id_of(cell), link.ends().other, -1);
    }
}

Status Bus::submit(Link& link, const wire::Draft& draft) {
    if (draft.kind == wire::Kind::cancel) {
        if (give_up(link, draft.id)) notices_.push_back({&link, wire::Kind::error, Status::cancelled, draft.id});
        return link.state();
    }
    lend(link, draft);
    const Status status = link.submit(draft);
    if (status != Status::ok) unlend(link, draft);
    return status;
}

bool Bus::give_up(Link& link, std::uint64_t id) {
    return link.cancel(id, [&](const wire::Draft& call) { unlend(link, call); });
}

Status Bus::answer(Link& link, const wire::Draft& draft) {
    lend(link, draft);
    const Status status = link.answer(draft);
    if (status != Status::ok) unlend(link, draft);
    return status;
}

void Bus::give_back(std::uint32_t slot, std::uint32_t generation, std::uint64_t id, std::uint32_t uses) {
    auto& cells = releases_[layout::life(generation, layout::Phase{}) | slot];
    cells.push_back({wire::Tag::integer, wire::DType::none, 0, 0, id});
    cells.push_back({wire::Tag::integer, wire::DType::none, 0, 0, uses});
}

/// In frames that need no memory of the arena. What finds no room stays for the next time.
void Bus::send_releases() {
    constexpr std::size_t in_a_frame = 480;
    for (auto at = releases_.begin(); at != releases_.end();) {
        std::vector<wire::Cell>& cells = at->second;
        Link* link = link_to(static_cast<std::uint32_t>(at->first & 0xff), layout::generation_of(at->first));
        std::size_t sent = 0;
        Status status = link == nullptr ? Status::lost : Status::ok;
        while (status == Status::ok && sent < cells.size()) {
            const auto some = std::span(cells).subspan(sent, std::min(in_a_frame, cells.size() - sent));
            status = link->submit({.kind = wire::Kind::release, .cells = some});
            if (status == Status::ok) sent += some.size();
        }
        cells.erase(cells.begin(), cells.begin() + static_cast<std::ptrdiff_t>(sent));
        at = status == Status::full ? std::next(at) : releases_.erase(at);
    }
}

/// Takes what only the accounts need. False when the frame is for the adapter.
bool Bus::keep_accounts(Link& link, const wire::Draft& frame) {
    const auto value = [&](std::size_t i) { return frame.cells[i].bits; };
    const auto& ends = link.ends();
    if (frame.kind < wire::Kind::release && frame.kind != wire::Kind::cancel) return false;
    discard(frame);  // none of them has a reason to carry anything
    if (frame.cells.size() > most_accounts) {
        link.fail(Status::corrupt);
        return true;
    }
    if (frame.kind == wire::Kind::retired) {
        link.left_alone();
        return true;
    }
    if (frame.kind == wire::Kind::retire) {
        // Behind every call that was sent there.
        if (link.submit({.kind = wire::Kind::retired}) == Status::ok) link.publish();
        return true;
    }
    if (frame.kind == wire::Kind::release) {
        for (std::size_t i = 0; i + 1 < frame.cells.size(); i += 2)
            lending_.release(value(i), ends.other,
                             static_cast<std::int64_t>(std::min<std::uint64_t>(value(i + 1), most_uses)));
        return true;
    }
    if (frame.kind == wire::Kind::cancel) {
        for (const wire::Cell& cell : frame.cells)
            notices_.push_back({&link, wire::Kind::cancel, Status::ok, cell.bits});
        return true;
    }
    for (std::size_t i = 0; i + 2 < frame.cells.size(); i += 3) {
        const auto generation = static_cast<std::uint32_t>(value(i + 2));
        // Without a link nobody would tell of the holder's death.
        if (value(i + 1) >= layout::max_peers || value(i + 1) == slot_) continue;
        const auto slot = static_cast<std::uint32_t>(value(i + 1));
        if (link_to(slot, generation) != nullptr) lending_.share(value(i), slot);
    }
    return true;
}

void Bus::discard(const wire::Draft& frame) {
    for (const Handle& payload : frame.payloads) (void)arena_->release(payload.block, payload.generation);
    if ((frame.flags & wire::frame_references) == 0) return;
    for (const wire::Cell& cell : frame.cells) {
        if (cell.tag == wire::Tag::reference && wire::owner_of(cell) != slot_)
            give_back(wire::owner_of(cell), cell.count, wire::id_of(cell), 1);
    }
}

// --- sending and receiving -----------------------------------------------------------------------------------------

Bus::Received Bus::notice() {
    const Notice notice = notices_.front();
    notices_.pop_front();
    return {Status::ok, notice.link, {.kind = notice.kind, .status = notice.status, .id = notice.id}, 0};
}

Bus::Received Bus::receive(std::span<std::byte> room, std::uint64_t later) {
    if (!notices_.empty()) return notice();
    for (std::size_t tried = 0; tried <= links_.size() && !links_.empty(); ++tried) {
        if (in_turn_ == frames_per_turn || turn_ >= links_.size()) {
            in_turn_ = 0;
            turn_ = turn_ + 1 < links_.size() ? turn_ + 1 : 0;
        }
        Link& link = *links_[turn_];
        if ((later & bit(link.ends().other)) != 0) {
            in_turn_ = frames_per_turn;
            continue;
        }
        const auto received = link.receive(room);
        if (received.status == Status::ok || received.status == Status::too_large) {
            in_turn_ += received.status == Status::ok;
            if (received.status == Status::ok && keep_accounts(link, received.frame)) {
                if (!notices_.empty()) return notice();
                tried = 0;
                continue;
            }
            return {received.status, &link, received.frame, received.bytes};
        }
        in_turn_ = frames_per_turn;
    }
    // Who waits for an answer also moves on what could not be sent before the other side attached or had room.
    for (const auto& link : links_) {
        if (link->waiting() == 0) continue;
        link->pump();
        link->publish();
    }
    return {Status::empty, nullptr, {}, 0};
}

void Bus::flush() {
    if (!releases_.empty()) send_releases();
    for (const auto& link : links_) {
        link->pump();
        link->publish();
    }
}

bool Bus::stands(const Link& link) const {
    const auto& ends = link.ends();
    return is_live(ends.other, ends.other_generation) && !link.dropped();
}

void Bus::attend(const std::function<void(Link&, Status)>& lost) {
    const bool over = closed();
    for (std::size_t i = 0; i < links_.size();) {
        Link& link = *links_[i];
        // What a peer published before it left or died still counts: a link ends once its ring is empty.
        const bool gone = (over || !stands(link)) && !link.receivable();
        if (!gone && link.state() == Status::ok) {
            ++i;
            continue;
        }
        const Status reason = stands(link) && !over ? link.state() : Status::lost;
        count(reason == Status::corrupt ? counters().links_corrupt : counters().links_lost);
        lost(link, reason);
        std::erase_if(notices_, [&](const Notice& notice) { return notice.link == &link; });
        lending_.forget(link.ends().other);
        bells_wanted_ &= ~bit(link.ends().other);
        bells_asked_ &= ~bit(link.ends().other);
        ++epoch_;
        std::erase(homes_, &link);
        keeper_->remove_chore(&link);
        links_.erase(links_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (bells_wanted_ != 0) fetch_bells();
    if (put_off_ != 0 && doorbell::Clock::now() >= put_off_until_) try_again();
    const auto& row = segment_->attachments(slot_);
    for (std::uint32_t other = 0; other < layout::max_peers; ++other) {
        const std::uint64_t word = row.from[other].load(std::memory_order_acquire);
        if (word == seen_[other]) continue;
        seen_[other] = word;
        const auto from_generation = static_cast<std::uint32_t>(word >> 32);
        if (word != layout::attach_word(from_generation, generation_)) continue;
        ++epoch_;
        if (find(other, from_generation) != nullptr || !is_live(other, from_generation)) continue;
        if (open(other, from_generation) == Status::ok) {
            fetch_bells();
        } else {  // without memory for the ring the other side waits
            put_off_ |= bit(other);
            put_off_until_ = doorbell::Clock::now() + 100ms;
        }
    }
}

bool Bus::ready() {
    if (!notices_.empty()) return true;
    if (bells_asked_ != 0 && readable(broker_->socket()->get())) return true;
    const auto& row = segment_->attachments(slot_);
    for (std::uint32_t other = 0; other < layout::max_peers; ++other) {
        if (row.from[other].load(std::memory_order_relaxed) != seen_[other]) return true;
    }
    const bool over = closed();
    for (const auto& link : links_) {
        if (link->ready() || over || !stands(*link)) return true;
    }
    return false;
}

bool Bus::has_traffic() const {
    return !notices_.empty() ||
           std::any_of(links_.begin(), links_.end(), [](const auto& link) { return link->ready(); });
}

bool Bus::spin(doorbell::Deadline deadline) {
    const bool found = spin_.until([this] { return has_traffic(); }, deadline);
    if (found) count(counters().spins);
    return found;
}

bool Bus::arm() {
    for (const auto& link : links_) link->starve();
    doorbell::arm(segment_->peer(slot_).asleep);
    armed_ = true;
    return ready();
}

void Bus::disarm() {
    if (std::exchange(armed_, false) && doorbell::disarm(segment_->peer(slot_).asleep)) silence();
}

bool Bus::wait(doorbell::Deadline deadline) {
    if (spin(deadline)) return true;
    bool found = arm();
    if (!found) {
        count(counters().sleeps);
        found = doorbell::sleep(bell_->get(), deadline);
        if (found) silence();
    }
    disarm();
    return found || ready();
}

void Bus::wake() {
    segment_->peer(slot_).asleep.store(0, std::memory_order_relaxed);
    doorbell::ring(bell_->get());
}

/// Looks anew at the attachments that could not be answered.
void Bus::try_again() {
    for (; put_off_ != 0; put_off_ &= put_off_ - 1) seen_[std::countr_zero(put_off_)] = 0;
}

void Bus::tick() {
    try_again();
    ++epoch_;
    for (const auto& link : links_) link->pump();
}

bool Bus::closed() const {
    return cut_off_->load(std::memory_order_acquire) ||
           layout::phase_of(segment_->header().broker_life.load(std::memory_order_acquire)) > layout::Phase::live;
}

std::string Bus::label(std::uint32_t slot) const {
    const auto& text = peer(slot).label;
    return {text, ::strnlen(text, sizeof text)};
}

std::string Bus::fate(const Link& link, Status reason) const {
    const std::uint32_t slot = link.ends().other;
    const std::uint64_t life = peer(slot).life.load(std::memory_order_acquire);
    if (layout::generation_of(life) != link.ends().other_generation) return "is gone";  // and its place somebody else's
    const std::string who = label(slot) + " (pid " + std::to_string(peer(slot).pid) + ") ";
    if (reason == Status::corrupt) return who + "wrote bytes that break the protocol, so its link was closed";
    switch (layout::phase_of(life)) {
        case layout::Phase::left: return who + "has left the bus";
        case layout::Phase::lost: return who + "has died";
        default: return who + (closed() ? "is gone, and the bus with it" : "is gone");
    }
}

std::string Bus::shortage(Status refusal, std::uint64_t bytes) const {
    const std::uint64_t whole = arena_->memory().bytes;
    const std::string larger = "serve the bus with a larger memory (--memory, `memory` of spawn and Host)";
    if (refusal == Status::too_large) {
        return text_of_bytes(bytes) + " are more than the bus's whole memory, which is " + text_of_bytes(whole) + ": " +
               larger;
    }
    const Census now = census();
    std::string text = "no room for " + text_of_bytes(bytes) + ": ";
    if (refusal == Status::over_quota) {
        return text + "this peer owns " + text_of_bytes(now.peers[slot_].owned) +
               " of the bus's memory already, and may own " + text_of_bytes(quota()) + " of " + text_of_bytes(whole) +
               ": release arrays, or " + larger + ", or with a larger quota";
    }
    text += "of the bus's " + text_of_bytes(whole) + " " + text_of_bytes(now.free) + " are free, " +
            text_of_bytes(now.longest) + " of it in one piece";
    std::vector<std::uint32_t> owners;
    for (std::uint32_t slot = 0; slot < layout::max_peers; ++slot) {
        if (now.peers[slot].owned != 0) owners.push_back(slot);
    }
    std::sort(owners.begin(), owners.end(), [&](auto a, auto b) { return now.peers[a].owned > now.peers[b].owned; });
    constexpr std::size_t most_named = 4;
    for (std::size_t i = 0; i < std::min(owners.size(), most_named); ++i) {
        text += "; " + label(owners[i]) + " (pid " + std::to_string(peer(owners[i]).pid) + ") owns " +
                text_of_bytes(now.peers[owners[i]].owned);
    }
    if (now.orphaned != 0) text += "; " + text_of_bytes(now.orphaned) + " are of peers that are gone";
    return text + ". Release arrays, or " + larger;
}

const layout::Counters* Bus::counters_of(std::uint32_t slot) const {
    if (slot >= layout::max_peers) return nullptr;
    const auto phase = layout::phase_of(segment_->peer(slot).life.load(std::memory_order_acquire));
    return phase == layout::Phase::free ? nullptr : &segment_->peer(slot).counters;
}

}  // namespace isthmus
