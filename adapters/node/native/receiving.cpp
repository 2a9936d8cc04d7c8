// What has arrived: frames, as descriptors that TypeScript reads.
#include <algorithm>

#include "function.hpp"

namespace isthmus::node {

namespace {

constexpr std::uint32_t attend_every = 64;  // drains, where every drain brings something

void put(std::int32_t* words, Field field, std::uint64_t value) {
    words[static_cast<std::uint32_t>(field)] = static_cast<std::int32_t>(value);
}

void put_both(std::int32_t* words, Field low, Field high, std::uint64_t value) {
    put(words, low, value);
    put(words, high, value >> 32);
}

/// Milliseconds until then; -1 when it has passed, 0 when there is no limit.
std::int32_t time_left(std::uint64_t deadline) {
    if (deadline == 0) return 0;
    const auto now = static_cast<std::uint64_t>(doorbell::Clock::now().time_since_epoch().count());
    if (deadline <= now) return -1;
    return static_cast<std::int32_t>(std::min<std::uint64_t>((deadline - now + 999'999) / 1'000'000, INT32_MAX));
}

}  // namespace

std::int32_t* Connection::descriptor() { return descriptors_ + descriptor_words * word(Word::frames)++; }

/// Tells TypeScript of a frame that was copied to `base` on. False when it is nothing for TypeScript.
bool Connection::describe(const Bus::Received& received, const std::byte* base) {
    switch (received.frame.kind) {
        case wire::Kind::reply:
        case wire::Kind::error:
        case wire::Kind::item: return describe_answer(received, base);
        default: break;
    }
    for (const Handle& payload : received.frame.payloads) feel(payload.block, payload.bytes);
    std::int32_t* words = descriptor();
    describe_frame(received, base, words);
    describe_request(received, base, words);
    return true;
}

bool Connection::describe_answer(const Bus::Received& received, const std::byte* base) {
    const wire::Draft& frame = received.frame;
    const auto slot = static_cast<std::uint32_t>(frame.id & ((1U << slot_bits) - 1));
    if (slot >= calls_.size() || calls_[slot].link != received.link || calls_[slot].uses != frame.id >> slot_bits) {
        bus_->discard(frame);
        return false;
    }
    Call& call = calls_[slot];
    const bool is_item = frame.kind == wire::Kind::item;
    if (!is_item) {
        call.link = nullptr;
        if (call.name >= 0 && frame.target < wire::operation) {
            Name& name = names_[static_cast<std::uint32_t>(call.name)];
            if (target(name, received.link) == wire::name_only) name.targets.emplace_back(received.link, frame.target);
        }
    }
    if (call.abandoned) {
        bus_->discard(frame);
        if (is_item) return false;
        std::int32_t* words = descriptor();
        std::fill_n(words, descriptor_words, 0);
        put(words, Field::kind, static_cast<std::uint64_t>(frame.kind));
        put(words, Field::slot, slot);
        return true;
    }
    for (const Handle& payload : frame.payloads) feel(payload.block, payload.bytes);
    std::int32_t* words = descriptor();
    describe_frame(received, base, words);
    put(words, Field::slot, slot);
    return true;
}

void Connection::describe_frame(const Bus::Received& received, const std::byte* base, std::int32_t* words) {
    const wire::Draft& frame = received.frame;
    const auto distance = [base](const auto& span) -> std::uint64_t {
        return span.empty() ? 0 : static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(span.data()) - base);
    };
    put(words, Field::kind, static_cast<std::uint64_t>(frame.kind));
    put(words, Field::status, static_cast<std::uint64_t>(frame.status));
    put(words, Field::cells, distance(frame.cells) / 4);
    put(words, Field::cellCount, frame.cells.size());
    put(words, Field::heap, distance(frame.heap));
    put(words, Field::payloads, distance(frame.payloads) / 4);
    put(words, Field::payloadCount, frame.payloads.size());
}

/// Whether a call for which its caller blocks is performed also while this isolate blocks in a call to that caller, as else both
/// would wait for ever. Python does so itself; of two isolates, the one in the lower slot does.
bool Connection::gives_way_to(const Link::Ends& ends) const {
    return ends.other > ends.self && bus_->peer(ends.other).kind != static_cast<std::uint32_t>(PeerKind::python);
}

/// What only calls, posts, cancels and credits have.
void Connection::describe_request(const Bus::Received& received, const std::byte* base, std::int32_t* words) {
    const wire::Draft& frame = received.frame;
    const auto& ends = received.link->ends();
    put(words, Field::peer, ends.other);
    put(words, Field::peerGeneration, ends.other_generation);
    put(words, Field::flags, gives_way_to(ends) ? frame.flags : frame.flags & ~wire::frame_blocks);
    put(words, Field::number, frame.number);
    put(words, Field::target, frame.target);
    put(words, Field::name, 0);
    put(words, Field::nameBytes, frame.name.size());
    if (!frame.name.empty())
        put(words, Field::name,
            static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(frame.name.data()) - base));
    put_both(words, Field::idLow, Field::idHigh, frame.id);
    const auto activity = frame.activity != 0 ? frame.activity : wire::activity_of(ends.other, frame.id);
    put_both(words, Field::activityLow, Field::activityHigh, activity);
    put(words, Field::nested, frame.activity != 0);
    words[static_cast<std::uint32_t>(Field::timeLeft)] = time_left(frame.deadline);
}

void Connection::describe_lost() {
    while (!lost_.empty() && index(Word::frames) < most_frames) {
        std::int32_t* words = descriptor();
        std::fill_n(words, descriptor_words, 0);
        put(words, Field::kind, static_cast<std::uint64_t>(wire::Kind::error));
        put(words, Field::status, static_cast<std::uint64_t>(Status::lost));
        put(words, Field::slot, lost_.back().first);
        put(words, Field::number, lost_.back().second);
        lost_.pop_back();
    }
    while (!gone_.empty() && index(Word::frames) < most_frames) {
        std::int32_t* words = descriptor();
        std::fill_n(words, descriptor_words, 0);
        words[static_cast<std::uint32_t>(Field::kind)] = kind_gone;
        put(words, Field::peer, gone_.back().first);
        put(words, Field::peerGeneration, gone_.back().second);
        gone_.pop_back();
    }
}

void Connection::attend() {
    bus_->attend([this](Link& link, Status reason) {
        const std::size_t before = lost_.size();
        for (std::size_t slot = 0; slot < calls_.size(); ++slot) {
            if (calls_[slot].link != &link) continue;
            calls_[slot].link = nullptr;
            lost_.emplace_back(static_cast<std::uint32_t>(slot), fates_.size());
        }
        if (lost_.size() > before) fates_.push_back(bus_->fate(link, reason));
        for (Name& name : names_) std::erase_if(name.targets, [&](const auto& known) { return known.first == &link; });
        gone_.emplace_back(link.ends().other, link.ends().other_generation);
    });
}

/// Copies what has arrived to the inbox. A frame larger than the inbox is returned in a buffer of its own, and alone.
napi_value Connection::collect(napi_env env) {
    word(Word::frames) = 0;
    if (!bus_) return nullptr;
    if (++drains_ % attend_every == 0) attend();
    describe_lost();
    std::size_t at = 0;
    while (index(Word::frames) < most_frames) {
        const auto room = inbox_.subspan(at);
        auto received = bus_->receive(room);
        if (received.status == Status::ok) {
            if (describe(received, inbox_.data()))
                at += std::min<std::size_t>((received.bytes + 7) & ~std::size_t{7}, room.size());
            continue;
        }
        if (received.status == Status::empty) {
            if (word(Word::frames) > 0) break;
            attend();
            describe_lost();
            break;
        }
        if (word(Word::frames) > 0) break;
        void* data = nullptr;
        napi_value buffer = make_buffer(env, received.bytes, &data);
        if (buffer == nullptr) {
            // It would be met again in each turn, and nothing behind it be read: its link ends.
            napi_get_and_clear_last_exception(env, &buffer);
            received.link->fail(Status::lost);
            attend();
            describe_lost();
            break;
        }
        received = bus_->receive({static_cast<std::byte*>(data), received.bytes});
        if (received.status == Status::ok && describe(received, static_cast<std::byte*>(data))) return buffer;
    }
    return nullptr;
}

napi_value Connection::drain(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    Connection& self = of(env, info);
    return guarded(env, [&] { return self.collect(env); });
}

}  // namespace isthmus::node
