#include "bus/bus.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <utility>

namespace isthmus {

using namespace std::chrono_literals;
using peers::count;

namespace {

constexpr std::uint32_t frames_per_turn = 64;  // of one link, before the next has its turn

bool hung_up(int socket) {
    pollfd one{socket, POLLRDHUP, 0};
    return ::poll(&one, 1, 0) > 0 && (one.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}

}  // namespace

std::unique_ptr<Bus> Bus::join(rendezvous::Invitation invitation) {
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
    bus->arena_ =
        std::make_unique<Arena>(arena_memory(segment), *bus->pages_, bus->slot_, bus->generation_, peer.counters);

    if (peers::start_pulse(peer.pulse, doorbell::Clock::now() + 1s) != Status::ok) {
        throw Error(Status::timed_out, "the place on the bus is still being cleared: try again");
    }
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
        if (stands(*link)) doors.emplace_back(link->ends().other, link->take_bell());
    }
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
    if (status == Status::ok) links_.push_back(std::move(link));
    return status;
}

Link* Bus::service() {
    Link* best = nullptr;
    const auto load = [](const Link& link) { return link.in_flight() + link.waiting(); };
    for (const auto& link : links_) {
        if (!segment_->peer(link->ends().other).service || link->state() != Status::ok) continue;
        if (best == nullptr || load(*link) < load(*best)) best = link.get();
    }
    return best;
}

Bus::Received Bus::receive(std::span<std::byte> room) {
    for (std::size_t tried = 0; tried <= links_.size() && !links_.empty(); ++tried) {
        if (in_turn_ == frames_per_turn || turn_ >= links_.size()) {
            in_turn_ = 0;
            turn_ = turn_ + 1 < links_.size() ? turn_ + 1 : 0;
        }
        Link& link = *links_[turn_];
        const auto received = link.receive(room);
        if (received.status == Status::ok || received.status == Status::too_large) {
            in_turn_ += received.status == Status::ok;
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
    for (const auto& link : links_) {
        link->pump();
        link->publish();
    }
}

bool Bus::stands(const Link& link) const {
    const auto& ends = link.ends();
    return segment_->peer(ends.other).life.load(std::memory_order_acquire) ==
               layout::life(ends.other_generation, layout::Phase::live) &&
           !link.dropped();
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
        links_.erase(links_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (put_off_ != 0 && doorbell::Clock::now() >= put_off_until_) try_again();
    const auto& row = segment_->attachments(slot_);
    for (std::uint32_t other = 0; other < layout::max_peers; ++other) {
        const std::uint64_t word = row.from[other].load(std::memory_order_acquire);
        if (word == seen_[other]) continue;
        seen_[other] = word;
        const auto from_generation = static_cast<std::uint32_t>(word >> 32);
        if (word != layout::attach_word(from_generation, generation_)) continue;
        const auto same = [&](const auto& link) {
            return link->ends().other == other && link->ends().other_generation == from_generation;
        };
        if (std::any_of(links_.begin(), links_.end(), same)) continue;
        if (segment_->peer(other).life.load(std::memory_order_acquire) !=
            layout::life(from_generation, layout::Phase::live))
            continue;
        Fd bell = broker_->door(other, from_generation);
        // Without its bell or without memory for the ring the other side waits.
        if (!bell || open(other, from_generation, std::move(bell)) != Status::ok) {
            put_off_ |= std::uint64_t{1} << other;
            put_off_until_ = doorbell::Clock::now() + 100ms;
        }
    }
}

bool Bus::ready() {
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

bool Bus::spin(doorbell::Deadline deadline) {
    // Only the rings: who comes and goes is looked at before sleeping.
    const auto any = [this] {
        return std::any_of(links_.begin(), links_.end(), [](const auto& link) { return link->ready(); });
    };
    const bool found = spin_.until(any, deadline);
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
    for (const auto& link : links_) link->pump();
    arena_->trim(doorbell::Clock::now() - 5s);
}

bool Bus::closed() const {
    return cut_off_->load(std::memory_order_acquire) ||
           layout::phase_of(segment_->header().broker_life.load(std::memory_order_acquire)) > layout::Phase::live;
}

const layout::Counters* Bus::counters_of(std::uint32_t slot) const {
    if (slot >= layout::max_peers) return nullptr;
    const auto phase = layout::phase_of(segment_->peer(slot).life.load(std::memory_order_acquire));
    return phase == layout::Phase::free ? nullptr : &segment_->peer(slot).counters;
}

}  // namespace isthmus
