// Ends uses of blocks and gives an arena's idle memory back, whatever the peer's own thread is doing: computing, asleep, or never to run again.
//
// A thread that exists from the first chunk that the peer takes on, and looks once a second for as long as it owns or uses any.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "bus/arena.hpp"

namespace isthmus {

/// Stands between an arena and its pages, so that it sees when there is something to look after.
class Keeper : public ArenaPages {
public:
    explicit Keeper(ArenaPages& pages) : pages_(pages) {}
    ~Keeper() override { stop(); }

    /// The arena that has its pages from here. Before it takes any.
    void mind(Arena& arena) { arena_ = &arena; }
    /// What else is to be done at each look, on the keeper's thread, by the name of what it is for.
    void add_chore(const void* whose, std::function<void()> chore);
    /// It is not done any more, and not being done, afterwards.
    void remove_chore(const void* whose);
    /// Waits for the thread to end. Before the arena is left.
    void stop();

    Status reserve(std::uint64_t first_chunk, std::uint64_t chunks, std::uint32_t blocks) override;
    void punch(std::uint64_t first_chunk, std::uint64_t chunks) override { pages_.punch(first_chunk, chunks); }

private:
    void wake();
    void run();
    void do_chores();

    ArenaPages& pages_;
    Arena* arena_ = nullptr;
    std::mutex mutex_;  // guards what follows
    std::condition_variable changed_;
    bool owns_ = false;
    bool stopped_ = false;
    std::thread thread_;
    std::mutex chores_mutex_;  // guards what follows, also while a chore is done
    std::unordered_map<const void*, std::function<void()>> chores_;
};

}  // namespace isthmus
