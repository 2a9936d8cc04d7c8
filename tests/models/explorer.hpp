// Explores every schedule of a few short programs, and every order in which their stores may reach memory.
//
// The programs are the core's own templates (doorbell, ring, lease), instantiated with Word instead of std::atomic. What is
// explored: each thread keeps its stores in a buffer. A buffered store reaches memory at any later moment; stores to one
// word in order, a release store after all stores before it, others as they like. A read-modify-write acts on memory at
// once, after the thread's stores to that word, and after all of them when it releases; a full fence waits until the buffer
// is empty. So this is weaker than x86 for stores, and the same as x86 for a store and a later load.
//
// What it proves: for these programs, of these lengths, no schedule breaks what they require, and none gets stuck.
// What it does not: loads happen in program order, so a missing acquire goes unnoticed (ThreadSanitizer's part); a run-time
// loop is explored only as often as a program goes round; the compiler and the kernel are taken at their word.
//
// A state is memory, buffers and what each thread has read so far. A thread is run again from its start for each step, with
// what it read before, and stopped at its first new access: so that a program needs no other form than that of a function.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "bus/doorbell.hpp"

namespace isthmus::models {

using Value = std::uint64_t;

struct Outcome {
    std::uint64_t states = 0;
    std::string broken;  // empty: nothing ever was
};

class Model {
public:
    Model() { current = this; }
    ~Model() { current = nullptr; }
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    /// A thread. A mortal one may be killed before any of its accesses.
    std::size_t thread(std::function<void()> program, bool mortal = false) {
        programs_.push_back({std::move(program), mortal, add_word(0)});
        return programs_.size() - 1;
    }

    /// Plain bytes that all threads share. What a thread writes there are relaxed stores of 8 bytes each; what it reads there
    /// is as old as its last access to a Word. Where the bytes are not the subject they are not delayed, to have fewer states.
    enum class Plain { delayed, at_once };
    std::byte* data(std::size_t bytes, Plain plain) {
        plain_ = plain;
        data_begin_ = initial_.size();
        for (std::size_t i = 0; i < bytes / 8; ++i) add_word(0);
        view_.resize(bytes / 8);
        return reinterpret_cast<std::byte*>(view_.data());
    }

    Outcome explore() { return explore_until(programs_.size() - 1); }

    /// Only threads up to `last` have to come to their end; the others may wait for what never happens.
    Outcome explore_until(std::size_t last) {
        last_ = last;
        State state;
        state.memory = initial_;
        state.threads.resize(programs_.size());
        visit(state);
        return {visited_.size(), broken_};
    }

    // What the programs call.

    static void require(bool holds, const char* what) {
        if (!holds) throw Broken{what};
    }
    /// Waits until a thread has been killed, as the kernel tells of it.
    static void await_death(std::size_t thread) {
        (void)current->access({Access::await, current->programs_[thread].obituary});
    }

private:
    friend class Word;

    struct Access {
        enum Kind : std::uint8_t {
            load,
            store,
            add,
            set_bits,
            clear_bits,
            exchange,
            compare_exchange,
            fence,
            await,
            sleep,
            pass
        } kind;
        std::size_t word = 0;
        Value operand = 0, expected = 0;
        bool release = false;
    };
    struct Store {
        std::size_t word;
        Value value;
        bool release;
    };
    struct Step {
        Value result;
        std::vector<Value> view;
    };
    struct Thread {
        std::vector<Store> buffer;
        std::vector<Step> past;
        std::uint64_t digest = 0;
        bool finished = false;
    };
    struct State {
        std::vector<Value> memory;
        std::vector<Thread> threads;
    };
    struct Program {
        std::function<void()> run;
        bool mortal;
        std::size_t obituary;
    };
    struct Stop {};
    struct Broken {
        const char* what;
    };

    /// The way here: each thread's steps by its number, with s for a store that reached memory and x for its death.
    struct Trail {
        Trail(Model& model, std::size_t thread, char what) : trail(model.trail_), length(model.trail_.size()) {
            trail += ' ' + std::to_string(thread);
            if (what != ' ') trail += what;
        }
        ~Trail() { trail.resize(length); }
        Trail(const Trail&) = delete;
        Trail& operator=(const Trail&) = delete;
        std::string& trail;
        std::size_t length;
    };

    std::size_t add_word(Value initial) {
        initial_.push_back(initial);
        return initial_.size() - 1;
    }

    static std::uint64_t mix(std::uint64_t digest, std::uint64_t value) {
        digest = (digest ^ value) * 0x9e3779b97f4a7c15;
        return digest ^ digest >> 29;
    }
    static std::uint64_t digest_of(const State& state) {
        std::uint64_t digest = 1;
        for (const Value value : state.memory) digest = mix(digest, value);
        for (const Thread& thread : state.threads) {
            digest = mix(mix(digest, thread.digest), thread.finished);
            for (const Store& store : thread.buffer)
                digest = mix(mix(mix(digest, store.word), store.value), store.release);
            digest = mix(digest, ~std::uint64_t{0});
        }
        return digest;
    }

    /// All that may happen next, each from a copy of the state.
    void visit(const State& state) {
        if (!broken_.empty() || !visited_.insert(digest_of(state)).second) return;
        bool moved = false, all_finished = true;
        for (std::size_t t = 0; t < state.threads.size() && broken_.empty(); ++t) {
            const Thread& thread = state.threads[t];
            for (std::size_t s = 0; s < thread.buffer.size(); ++s) {
                if (!may_reach_memory(thread.buffer, s)) continue;
                const Trail trail(*this, t, 's');
                State next = state;
                next.memory[thread.buffer[s].word] = thread.buffer[s].value;
                auto& buffer = next.threads[t].buffer;
                buffer.erase(buffer.begin() + static_cast<std::ptrdiff_t>(s));
                visit(next);
                moved = true;
            }
            if (thread.finished) continue;
            if (programs_[t].mortal && thread.buffer.empty()) {
                const Trail trail(*this, t, 'x');
                State next = state;
                next.threads[t].finished = true;
                next.memory[programs_[t].obituary] = 1;
                visit(next);
            }
            State next = state;
            const Trail trail(*this, t, ' ');
            if (run(next, t)) {
                visit(next);
                moved = true;
            }
            if (t <= last_) all_finished = false;
        }
        if (!moved && !all_finished && broken_.empty()) broken_ = "a thread waits for ever, after" + trail_;
    }

    static bool may_reach_memory(const std::vector<Store>& buffer, std::size_t index) {
        for (std::size_t before = 0; before < index; ++before) {
            if (buffer[index].release || buffer[before].word == buffer[index].word) return false;
        }
        return true;
    }

    /// One step of a thread. False when it can't go on now.
    bool run(State& state, std::size_t t) {
        running_ = &state;
        thread_ = &state.threads[t];
        at_ = 0;
        stepped_ = false;
        std::fill(view_.begin(), view_.end(), 0);
        image_ = view_;
        try {
            programs_[t].run();
            thread_->finished = true;
            return true;
        } catch (const Stop&) {
            return stepped_;
        } catch (const Broken& broken) {
            broken_ = std::string(broken.what) + ", after" + trail_;
            return true;
        }
    }

    Value access(const Access& access) {
        if (at_ < thread_->past.size()) {
            const Step& step = thread_->past[at_++];
            view_ = image_ = step.view;
            return step.result;
        }
        if (stepped_) throw Stop{};
        for (std::size_t i = 0; i < view_.size(); ++i) {
            if (view_[i] == image_[i]) continue;
            if (plain_ == Plain::at_once) running_->memory[data_begin_ + i] = view_[i];
            if (plain_ == Plain::delayed) thread_->buffer.push_back({data_begin_ + i, view_[i], false});
        }
        if (!enabled(access)) throw Stop{};
        const Value result = perform(access);
        stepped_ = true;
        ++at_;
        for (std::size_t i = 0; i < view_.size(); ++i) view_[i] = seen(data_begin_ + i);
        image_ = view_;
        thread_->past.push_back({result, view_});
        thread_->digest = mix(thread_->digest, result);
        for (const Value value : view_) thread_->digest = mix(thread_->digest, value);
        thread_->digest = mix(thread_->digest, thread_->past.size());
        return result;
    }

    bool enabled(const Access& access) const {
        switch (access.kind) {
            case Access::load:
            case Access::store:
            case Access::pass: return true;
            case Access::fence: return thread_->buffer.empty();
            case Access::await:
            case Access::sleep: return running_->memory[access.word] != 0;
            default: break;
        }
        for (const Store& store : thread_->buffer) {
            if (access.release || store.word == access.word) return false;
        }
        return true;
    }

    Value perform(const Access& access) {
        Value& memory = running_->memory[access.word];
        const Value before = memory;
        switch (access.kind) {
            case Access::load: return seen(access.word);
            case Access::store: thread_->buffer.push_back({access.word, access.operand, access.release}); return 0;
            case Access::add: memory += access.operand; return before;
            case Access::set_bits: memory |= access.operand; return before;
            case Access::clear_bits: memory &= access.operand; return before;
            case Access::exchange: memory = access.operand; return before;
            case Access::compare_exchange:
                if (before == access.expected) memory = access.operand;
                return before;
            case Access::sleep: memory = 0; return before;
            case Access::await: return before;
            case Access::fence:
            case Access::pass: return 0;
        }
        return 0;
    }

    Value seen(std::size_t word) const {
        for (auto store = thread_->buffer.rbegin(); store != thread_->buffer.rend(); ++store) {
            if (store->word == word) return store->value;
        }
        return running_->memory[word];
    }

    inline static Model* current = nullptr;

    std::vector<Value> initial_;
    std::vector<Program> programs_;
    std::size_t data_begin_ = 0, last_ = 0;
    Plain plain_ = Plain::delayed;
    std::unordered_set<std::uint64_t> visited_;
    std::string broken_, trail_;

    State* running_ = nullptr;
    Thread* thread_ = nullptr;
    std::size_t at_ = 0;
    bool stepped_ = false;
    std::vector<Value> view_, image_;
};

/// A std::atomic of the model.
class Word {
public:
    explicit Word(Value initial = 0) : word_(Model::current->add_word(initial)) {}
    Word(const Word&) = delete;
    Word& operator=(const Word&) = delete;

    Value load(std::memory_order) const { return go({Access::load, word_}); }
    void store(Value value, std::memory_order order) { go({Access::store, word_, value, 0, releases(order)}); }
    Value exchange(Value value, std::memory_order order) {
        return go({Access::exchange, word_, value, 0, releases(order)});
    }
    Value fetch_add(Value value, std::memory_order order) {
        return go({Access::add, word_, value, 0, releases(order)});
    }
    Value fetch_or(Value value, std::memory_order order) {
        return go({Access::set_bits, word_, value, 0, releases(order)});
    }
    Value fetch_and(Value value, std::memory_order order) {
        return go({Access::clear_bits, word_, value, 0, releases(order)});
    }
    bool compare_exchange_strong(Value& expected, Value value, std::memory_order order) {
        const Value found = go({Access::compare_exchange, word_, value, expected, releases(order)});
        return found == expected || (expected = found, false);
    }

    /// Waits until the word is not 0, and returns it.
    Value await() { return go({Access::await, word_}); }
    /// As an eventfd: waits until it was rung, and takes all rings back. Ringing it is fetch_add, which releases as a system
    /// call does.
    void sleep() { go({Access::sleep, word_}); }
    /// Lets others go on, and looks at the plain bytes again.
    void pass() { go({Access::pass, word_}); }
    void fence() { go({Access::fence, word_}); }

    /// The mutation: from now on its stores and read-modify-writes order nothing.
    void forget_order() { ordered_ = false; }

private:
    using Access = Model::Access;
    static Value go(const Access& access) { return Model::current->access(access); }
    bool releases(std::memory_order order) const {
        return ordered_ && (order == std::memory_order_release || order == std::memory_order_acq_rel ||
                            order == std::memory_order_seq_cst);
    }

    std::size_t word_;
    bool ordered_ = true;
};

/// What doorbell::full_fence comes to for a flag of the model.
inline void fence(Word& flag) { flag.fence(); }

}  // namespace isthmus::models
