#include "dispatcher.hpp"

#include <algorithm>

#include "arrays.hpp"
#include "errors.hpp"
#include "numpy_memory.hpp"

namespace isthmus::python {

namespace {

constexpr std::uint64_t publish_after = 100'000;       // ns that an answer may wait for the rest of its batch
constexpr std::uint64_t slow_call = 50'000;            // ns from which a call counts as slow
constexpr std::int32_t wary_calls = 256;               // after a slow one
constexpr std::uint64_t slow_batch = 1'000'000;        // ns from which a batch counts as slow
constexpr std::uint64_t gil_at_most = 5'000'000;       // ns of work for one take
constexpr std::uint64_t attend_every = 50'000;         // ns
constexpr std::uint64_t look_again = 5'000'000;        // ns, when all is done but for others' reading it
constexpr std::uint64_t most_silence = 2'000'000'000;  // ns for which a caller's last word is waited for
constexpr std::uint64_t second = 1'000'000'000;

thread_local Dispatcher* running_here = nullptr;

}  // namespace

Dispatcher* Dispatcher::of_this_thread() { return running_here; }

Dispatcher::Dispatcher(const Parts& parts)
    : state_(parts.state),
      bus_(parts.bus),
      memory_(parts.memory),
      calls_(parts.calls),
      deferred_(parts.deferred),
      hooks_(parts.hooks),
      exports_(parts.exports),
      stop_(parts.stop),
      drain_(parts.drain),
      shares_numpy_memory_(!parts.numpy_memory) {
    lost_ = [this](Link& link, Status reason) {
        forget(link);
        calls_.lost(link, reason, bus_.fate(link, reason));
    };
    note_service();
}

void Dispatcher::note_service() {
    const Link* service = bus_.service();
    service_slot_.store(service != nullptr ? service->ends().other : layout::max_peers, std::memory_order_relaxed);
}

void Dispatcher::publish_exports() {
    if (exports_ == nullptr || retired_ || exports_->size() == shown_exports_) return;
    const std::vector<std::string> names = exports_->names();
    shown_exports_ = names.size();
    // What does not fit is found by asking the service.
    (void)bus_.publish_exports(names);
}

// --- the loop: without the GIL but where take_gil and give_gil stand around -------------------------------------

void Dispatcher::run() {
    Memory::of_this_thread() = memory_;
    running_here = this;
    try {
        serve();
    } catch (...) {
        if (thread_ != nullptr) take_gil();
        running_here = nullptr;
        Memory::of_this_thread() = nullptr;
        throw;
    }
    running_here = nullptr;
    Memory::of_this_thread() = nullptr;
}

void Dispatcher::serve() {
    if (numpy_if_imported(state_) != nullptr) share_numpy_memory();
    give_gil();
    while (!stop_.load(std::memory_order_acquire) && !bus_.closed() && !is_drained()) {
        sweep();
        const bool received = gather();
        bus_.show_load(load());
        if (bus_.has_free()) memory_->objects().free(bus_.take_free());
        if (has_batch()) refuse_what_cannot_run();
        if (wants_gil()) {
            run_batch();
            answer_late();
        }
        bus_.flush();
        unpublished_ = false;
        prompt_->give_way();
        if (!received && !wants_gil() && parked_.empty()) idle(retired_ ? now_ns() + look_again : 0);
    }
    farewell();
}

/// Whether it was told to drain, and has answered all that can still have come.
bool Dispatcher::is_drained() {
    if (!drain_.load(std::memory_order_relaxed)) return false;
    if (!std::exchange(retired_, true)) bus_.retire();
    // What is on its way in the arena would be lost with this peer's leases.
    const auto has_all = [](const auto& link) { return link->state() != Status::ok || !link->owes(); };
    if (load() != 0 || bus_.has_traffic() || !std::all_of(bus_.links().begin(), bus_.links().end(), has_all)) {
        quiet_since_ = 0;
        return false;
    }
    if (bus_.is_left_alone()) return true;
    // A caller that is stopped, or busy elsewhere, keeps nobody: when it looks again it finds this peer gone.
    const std::uint64_t now = now_ns();
    if (quiet_since_ == 0) quiet_since_ = now;
    return now - quiet_since_ > most_silence;
}

/// The calls that have come and are not answered yet.
std::uint32_t Dispatcher::load() const {
    return static_cast<std::uint32_t>(batch_.size() - next_ + parked_.size() + deferred_.size() + pumps_.size());
}

/// Looks after the links, and sends what other threads have left to be sent.
void Dispatcher::sweep() {
    const std::uint64_t now = Ticks::now();
    if (now - attended_at_ > ticks_.of_ns(attend_every)) {
        attended_at_ = now;
        ticks_.learn();
        bus_.attend(lost_);
        note_service();
    }
    if (now - ticked_at_ > ticks_.of_ns(second)) {
        ticked_at_ = now;
        bus_.tick();
    }
    publish_exports();
    calls_.send(bus_);
    deferred_.send(bus_, *memory_);
    memory_->objects().send_returns(bus_);
    if (calls_.next_deadline() != 0) calls_.expire(now_ns());
}

bool Dispatcher::wants_gil() const { return has_batch() || calls_.has_events() || deferred_.has_news() || has_pumps(); }

void Dispatcher::run_batch() {
    take_gil();
    catch_up();
    if (!shares_numpy_memory_ && state_.numpy.is == Numpy::Is::here) share_numpy_memory();
    if (calls_.has_events() || deferred_.has_news()) deliver();
    const std::uint64_t slow = ticks_.of_ns(slow_call), late = ticks_.of_ns(publish_after),
                        enough = ticks_.of_ns(gil_at_most);
    const std::uint64_t began = Ticks::now();
    const std::size_t first = next_;
    std::uint64_t now = published_at_ = began;
    while (has_batch() && !stop_.load(std::memory_order_relaxed)) {
        Call& call = batch_[next_++];
        if (call.link == nullptr) continue;
        if ((call.frame.deadline != 0 || call.cancelled) && refuse_if_late(call)) continue;
        Export& target = *call.target;
        const std::int32_t wary = target.wary.load(std::memory_order_relaxed);
        if (wary > 0 && unpublished_) {
            bus_.show_load(load() + 1);
            publish(now);
        }
        perform(call, scratch_);
        const std::uint64_t started = now;
        now = Ticks::now();
        if (now - started > slow) {
            target.wary.store(wary_calls, std::memory_order_relaxed);
        } else if (wary > 0) {
            target.wary.store(wary - 1, std::memory_order_relaxed);
        }
        if (now - published_at_ > late) {
            bus_.show_load(load());
            publish(now);
        }
        if (now - began > enough) break;
    }
    // A batch of slow calls is short, so that who calls meanwhile has a turn soon.
    if (next_ > first)
        at_most_ = std::clamp<std::uint64_t>((next_ - first) * enough / (now - began + 1), 1, most_calls);
    if (handing_over_) hand_over();
    if (!pumps_.empty()) run_pumps();
    const std::uint64_t took = Ticks::now() - began;
    was_slow_ = took > ticks_.of_ns(slow_batch);
    took_ = was_slow_ ? took / std::max<std::uint64_t>(ticks_.of_ns(1000), 1) * 1000 : 0;
    bus_.show_load(load());  // before callers have the answers, and perhaps more calls
    bus_.flush();            // giving the GIL back takes time, which who waits for an answer need not wait
    give_gil();
}

/// From now on what exports compute lies in the bus, if it is large. Once numpy is there; GIL held.
void Dispatcher::share_numpy_memory() {
    if (std::exchange(shares_numpy_memory_, true)) return;
    const Ref before(use_numpy_memory(true));  // in this thread's context
    base_context_ = Ref();
    spare_context_ = Ref();
    if (!before) log_exception(state_, "numpy can't allocate in the bus", take_exception().get());
}

void Dispatcher::publish(std::uint64_t now) {
    bus_.flush();
    published_at_ = now;
    unpublished_ = false;
}

/// Waits until there is something to do; at most for a second, and until a time if it is not 0.
void Dispatcher::idle(std::uint64_t until) {
    const auto is_due = [this] {
        return calls_.has_work() || deferred_.has_answers() || deferred_.has_news() ||
               memory_->objects().has_returns() ||
               (blocked_ == nullptr &&
                (stop_.load(std::memory_order_relaxed) || (!retired_ && drain_.load(std::memory_order_relaxed))));
    };
    auto deadline = doorbell::Deadline::max();
    for (const std::uint64_t limit : {until, calls_.next_deadline()}) {
        if (limit != 0) deadline = std::min(deadline, doorbell::Deadline(std::chrono::nanoseconds(limit)));
    }
    auto& counters = bus_.counters();
    if (spin_.until([&] { return bus_.has_traffic() || is_due(); }, deadline)) {
        count(counters.spins);
        return;
    }
    if (!late_.empty() || !unknown_posts_.empty() || memory_->objects().has_buried()) {
        take_gil();
        catch_up();
        give_gil();
    }
    if (!bus_.arm() && !is_due()) {
        count(counters.sleeps);
        const auto latest = doorbell::Clock::now() + std::chrono::nanoseconds(second);
        if (doorbell::sleep(bus_.bell(), std::min(deadline, latest))) bus_.silence();
    }
    bus_.disarm();
}

/// What runs has finished by now; what has not begun is answered, so that its callers know that it was not.
void Dispatcher::farewell() {
    constexpr std::uint64_t patience = second / 5;
    const std::uint64_t began = now_ns();
    if (!bus_.closed()) calls_.send_posts(bus_);
    do {
        for (; has_batch(); ++next_) {
            if (batch_[next_].link != nullptr) refuse(batch_[next_], Status::closed);
        }
        bus_.flush();
    } while (now_ns() - began < patience && gather());
    parked_.for_each([this](Call& call) {
        if (call.link != nullptr) refuse(call, Status::closed);
    });
    if (bus_.closed()) bus_.attend(lost_);  // so that calls in flight know who was lost
    take_gil();
    for (std::size_t i = 0; i < pumps_.size(); ++i) {  // closing one may run what opens others
        Pump& pump = *pumps_[i];
        pump.closing = true;
        if (pump.over) continue;
        const Performs here(*this, pump.call, Ref::to(pump.context.get()));
        close_pump(pump);
    }
    pumps_.clear();
    deferred_.end(bus_, *memory_);
    calls_.end(Status::closed);
    deliver();
    catch_up();
    give_gil();
    bus_.flush();
    take_gil();
}

void Dispatcher::take_gil() {
    restore(std::exchange(thread_, nullptr));
    count(bus_.counters().gil_takes);
}

void Dispatcher::give_gil() { thread_ = PyEval_SaveThread(); }

}  // namespace isthmus::python
