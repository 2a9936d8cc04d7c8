// What this process's Python objects hold of a bus: blocks of its arena, and its mapping.
#pragma once

#include <memory>
#include <mutex>

#include "bus/bus.hpp"
#include "fork.hpp"
#include "objects.hpp"

namespace isthmus::python {

/// Outlives the Bus: what Python keeps stays readable after the bus was left. Any thread, with or without the GIL.
class Memory {
public:
    /// `pickles`: whether this peer asked for values as pickles.
    Memory(Bus& bus, bool pickles);
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    /// A block that an object of this process points into, in a list that the Memory walks when the bus is left.
    struct Hold {
        Handle handle;
        Hold* before = nullptr;
        Hold* after = nullptr;
    };
    /// Takes over one use of the block. False when the bus was left, and the block with it.
    bool hold(Hold& hold);
    /// Ends it, and the use.
    void drop(Hold& hold);

    Arena::Allocation allocate(std::uint64_t bytes);
    /// Why an allocation of so many bytes was refused, and what to do.
    std::string shortage(Status refusal, std::uint64_t bytes);
    Status retain(const Handle& handle);
    void release(const Handle& handle);
    /// A use of the block in which these bytes lie; bytes 0 when they do not lie in this bus.
    Handle retain_found(const void* address, std::uint64_t bytes);
    std::byte* at(const Handle& handle) const { return base_ + handle.offset; }
    void count_copied(std::uint64_t bytes);

    /// Before the Bus goes: gives what is still held pages of its own, so that it keeps its bytes. The peer's thread.
    void leave();

    /// The memory of the bus whose dispatcher runs on this thread; null on other threads.
    static std::shared_ptr<Memory>& of_this_thread();

    /// What crosses as references.
    Objects& objects() { return objects_; }

    /// Whether this peer reads pickles, and sends them to those who asked for them too.
    bool pickles() const { return pickles_; }
    bool pickles_for(std::uint32_t slot) const {
        return pickles_ && objects_.peer(slot).pickles.load(std::memory_order_relaxed) == 1;
    }

    /// Whether this is the process that joined.
    bool is_ours() const { return forks_ == fork_count(); }

private:
    void keep_bytes(const Handle& handle);

    std::shared_ptr<const void> mapping_;
    Objects objects_;
    const bool pickles_;
    std::byte* base_;
    std::uint64_t bytes_;
    int memory_fd_;  // the mapping's
    std::uint64_t arena_offset_;
    std::uint64_t forks_;
    std::mutex mutex_;
    const Bus* bus_;              // guarded by mutex_; null once the bus was left
    Arena* arena_;                // likewise
    layout::Counters* counters_;  // likewise
    Hold held_;                   // likewise; the head of the list
};

}  // namespace isthmus::python
