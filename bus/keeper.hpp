// Gives an arena's idle memory back, whatever the peer's own thread is doing: computing, asleep, or never to run again.
//
// A thread that exists from the first chunk that the peer takes on, and looks once a second for as long as it owns any.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "bus/arena.hpp"

namespace isthmus {

/// Stands between an arena and its pages, so that it sees when there is something to look after.
class Keeper : public ArenaPages {
public:
    explicit Keeper(ArenaPages& pages) : pages_(pages) {}
    ~Keeper() override { stop(); }

    /// The arena that has its pages from here. Before it takes any.
    void mind(Arena& arena) { arena_ = &arena; }
    /// Waits for the thread to end. Before the arena is left.
    void stop();

    Status reserve(std::uint64_t first_chunk, std::uint64_t chunks, std::uint32_t blocks) override;
    void punch(std::uint64_t first_chunk, std::uint64_t chunks) override { pages_.punch(first_chunk, chunks); }

private:
    void wake();
    void run();

    ArenaPages& pages_;
    Arena* arena_ = nullptr;
    std::mutex mutex_;  // guards what follows
    std::condition_variable changed_;
    bool owns_ = false;
    bool stopped_ = false;
    std::thread thread_;
};

}  // namespace isthmus
