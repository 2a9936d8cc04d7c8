// One isolate's place on a bus.
//
// TypeScript writes cells and texts into buffers that it lends, numbers into the control block, and calls a function without
// arguments: crossing costs 5 ns so, and 20 ns with three numbers. What arrives is copied into the inbox, and told in
// descriptors of `Field::count` words.
#pragma once

#include <node_api.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bus/bus.hpp"
#include "wake.hpp"

namespace isthmus::node {

// clang-format off
// The control block: these words, then these doubles.
#define ISTHMUS_WORDS(X)                                                                                 \
    X(status) X(kind) X(name) X(slot) X(firstCell) X(cells) X(firstHeap) X(heapBytes)                    \
    X(firstPayload) X(frames) X(inFlight) X(loop) X(block) X(generation) X(target) X(peer)               \
    X(peerGeneration) X(flags) X(number) X(idLow) X(idHigh) X(activityLow) X(activityHigh) X(answer)     \
    X(queued) X(exported) X(serving) X(selfSlot) X(selfGeneration) X(sticky) X(uncleared)
#define ISTHMUS_DOUBLES(X)                                                                               \
    X(timeout) X(offset) X(bytes) X(object)
// A descriptor of what arrived. `cells` and `payloads` count words from the inbox's start, `heap` and `name` bytes. The fields
// from `target` on are those of calls and posts, cancels and credits; `timeLeft` is in milliseconds, 0 without a deadline, -1 when it has passed.
#define ISTHMUS_FIELDS(X)                                                                                \
    X(kind) X(status) X(slot) X(cells) X(cellCount) X(heap) X(payloads) X(payloadCount) X(peer)          \
    X(peerGeneration) X(flags) X(number) X(target) X(name) X(nameBytes) X(idLow) X(idHigh)               \
    X(activityLow) X(activityHigh) X(nested) X(timeLeft)
// clang-format on

#define ISTHMUS_ENUMERATOR(name) name,
enum class Word : std::uint32_t { ISTHMUS_WORDS(ISTHMUS_ENUMERATOR) count };
enum class Double : std::uint32_t { ISTHMUS_DOUBLES(ISTHMUS_ENUMERATOR) count };
enum class Field : std::uint32_t { ISTHMUS_FIELDS(ISTHMUS_ENUMERATOR) count };
#undef ISTHMUS_ENUMERATOR

inline constexpr std::uint32_t doubles_at = 192;  // byte offset in the control block
inline constexpr std::uint32_t control_bytes = doubles_at + 8 * static_cast<std::uint32_t>(Double::count);
inline constexpr std::uint32_t descriptor_words = static_cast<std::uint32_t>(Field::count);
inline constexpr std::uint32_t most_frames =
    64;  // in one drain: the host has work again while the next ones are settled
inline constexpr std::uint32_t inbox_bytes = 128 << 10;
inline constexpr std::uint32_t leased_from = 2048;  // bytes of elements: smaller arrays travel in the frame's heap
inline constexpr std::uint32_t slot_bits = 24;      // of an id; the rest counts the slot's uses
static_assert(static_cast<std::uint32_t>(Word::count) * 4 <= doubles_at);

/// Field::kind of what is no frame: a peer's link is gone, and with it the calls of its that are being served.
inline constexpr std::int32_t kind_gone = 255;
/// Word::peer of a call that goes to whoever exports the name, or to a service.
inline constexpr std::int32_t any_peer = -1;

/// Word::loop: whether the connection keeps the event loop alive.
enum class Loop : std::int32_t { in_flight, always, never };

/// Whether the isolate may run no JavaScript any more. Nothing but running some tells.
bool is_terminated(napi_env env);

class Connection : public std::enable_shared_from_this<Connection> {
public:
    struct Lent {
        std::int32_t* control;
        std::int32_t* descriptors;
        std::span<std::byte> inbox;
    };
    /// The isolate's thread, which becomes the peer. `on_wake` is called when something has arrived, and keeps the
    /// buffers alive.
    Connection(napi_env env, std::unique_ptr<Bus> bus, Lent lent, napi_value on_wake);
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    /// The functions that TypeScript sees (src/native.ts). Starts to watch the bell.
    static napi_value expose(napi_env env, const std::shared_ptr<Connection>& connection, bool by_thread);

    // For Wake.
    Bus* bus() { return bus_.get(); }
    /// Whether it is worth looking for frames a little before sleeping.
    bool awaits() const { return word(Word::inFlight) > 0 || word(Word::serving) > 0; }
    /// Whether TypeScript has more to do: calls to perform, or to be told what went with a link, which one drain does not tell.
    bool has_work() const { return !lost_.empty() || !gone_.empty() || word(Word::queued) > 0; }
    bool keeps_loop() const;
    /// Everything that was submitted becomes visible.
    void flush();
    /// Calls on_wake as a turn of the event loop of its own: its microtasks run before it returns.
    void enter();
    /// Calls on_wake inside of a turn.
    void call_on_wake();
    /// Leaves the bus. Also when the environment ends.
    void leave();

private:
    struct Call {
        Link* link = nullptr;  // null: not in flight
        std::uint32_t uses = 0;
        std::int32_t name = 0;   // -1: not called by a name
        bool abandoned = false;  // nobody waits for what comes
    };
    struct Name {
        Bus::Route route;
        std::vector<std::pair<const Link*, std::uint32_t>> targets;  // learnt from completions
    };
    struct Staged {
        Handle handle;
        bool own;  // allocated for this message alone
    };

    struct Felt {
        std::uint64_t views = 0;
        std::int64_t bytes = 0;
    };

    // What TypeScript calls.
    void submit(napi_env env);
    void answer(napi_env env);
    void cancel(napi_env env);
    void credit(napi_env env);
    void give_back(napi_env env);
    void flush_now(napi_env env);
    void rouse(napi_env env);
    void allocate(napi_env env);
    void stage(napi_env env);
    void unstage(napi_env env);
    void release(napi_env env);
    void settled(napi_env env);
    void tick(napi_env env);
    void nudge(napi_env env);
    void delivered(napi_env env);
    void standing(napi_env env);
    void close(napi_env env);
    static napi_value call_and_wait(napi_env env, napi_callback_info info);
    static napi_value wait(napi_env env, napi_callback_info info);
    static napi_value drain(napi_env env, napi_callback_info info);
    static napi_value intern(napi_env env, napi_callback_info info);
    static napi_value stick(napi_env env, napi_callback_info info);
    static napi_value publish(napi_env env, napi_callback_info info);
    static napi_value take_free(napi_env env, napi_callback_info info);
    static napi_value label(napi_env env, napi_callback_info info);
    static napi_value fate(napi_env env, napi_callback_info info);
    static napi_value exports(napi_env env, napi_callback_info info);
    static napi_value lend(napi_env env, napi_callback_info info);
    static napi_value stage_copy(napi_env env, napi_callback_info info);
    static napi_value copy_out(napi_env env, napi_callback_info info);
    static napi_value memory(napi_env env, napi_callback_info info);
    struct Ahead;
    static napi_value allocate_ahead(napi_env env, napi_callback_info info);
    static napi_value shortage(napi_env env, napi_callback_info info);
    static napi_value stats(napi_env env, napi_callback_info info);
    template <void (Connection::*Member)(napi_env)>
    static napi_value plain(napi_env env, napi_callback_info info);

    std::int32_t& word(Word word) { return control_[static_cast<std::uint32_t>(word)]; }
    std::int32_t word(Word word) const { return control_[static_cast<std::uint32_t>(word)]; }
    std::uint32_t index(Word word) const { return static_cast<std::uint32_t>(this->word(word)); }
    double& real(Double real) {
        return reinterpret_cast<double*>(reinterpret_cast<std::byte*>(control_) +
                                         doubles_at)[static_cast<std::uint32_t>(real)];
    }
    void outcome(Status status) { word(Word::status) = static_cast<std::int32_t>(status); }

    bool report(napi_status called);
    std::uint64_t wide(Word low, Word high) const {
        return std::uint64_t{index(high)} << 32 | std::uint64_t{index(low)};
    }
    void put_wide(Word low, Word high, std::uint64_t value) {
        word(low) = static_cast<std::int32_t>(value);
        word(high) = static_cast<std::int32_t>(value >> 32);
    }
    bool is_staged() const;
    wire::Draft staged_draft();
    void forget_staged();
    Link* callee();
    Link* peer_link() const;
    Status send();
    napi_value await(napi_env env);
    napi_value collect(napi_env env);
    bool describe(const Bus::Received& received, const std::byte* base);
    bool describe_answer(const Bus::Received& received, const std::byte* base);
    void describe_frame(const Bus::Received& received, const std::byte* base, std::int32_t* words);
    bool gives_way_to(const Link::Ends& ends) const;
    void describe_request(const Bus::Received& received, const std::byte* base, std::int32_t* words);
    void describe_lost();
    std::int32_t* descriptor();
    void attend();
    std::uint32_t target(const Name& name, const Link* link) const;
    void feel(std::uint32_t block, std::uint64_t bytes);
    void feel_no_more(std::uint32_t block);
    doorbell::Deadline deadline();

    napi_env env_;
    std::unique_ptr<Bus> bus_;
    std::shared_ptr<ShortSlice> prompt_ = ShortSlice::of_this_thread();
    std::shared_ptr<Wake> wake_;
    napi_ref on_wake_ = nullptr;
    std::int32_t* control_;
    std::int32_t* descriptors_;
    std::span<std::byte> inbox_;
    std::span<const wire::Cell> cells_;
    std::span<const std::byte> heap_;
    std::vector<Staged> staged_;
    std::vector<Handle> payloads_;
    std::vector<Call> calls_;  // by slot
    std::vector<Name> names_;
    std::unordered_map<std::uint32_t, Felt> felt_;  // by block
    std::mutex ahead_;                              // held while another thread allocates: the bus stays
    std::atomic<bool> leaves_ = false;              // that thread gives up
    std::int64_t felt_bytes_ = 0;
    int nudges_left_ = 0;
    std::vector<std::pair<std::uint32_t, std::size_t>> lost_;    // slots of calls whose link is gone, and its fate
    std::vector<std::string> fates_;                             // of peers that had calls
    std::vector<std::pair<std::uint32_t, std::uint32_t>> gone_;  // slots and generations of peers whose link is gone
    std::uint32_t unflushed_ = 0;
    std::uint32_t drains_ = 0;
    bool entered_ = false;  // JavaScript runs because of on_wake: everything is flushed afterwards
};

}  // namespace isthmus::node
