// The mapping: create, seal, check, map. The room that knows Boost.Interprocess.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "bus/layout.hpp"
#include "bus/status.hpp"

namespace isthmus {

/// A file descriptor with one owner.
class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(other.give()) {}
    Fd& operator=(Fd&& other) noexcept;
    ~Fd();
    int get() const { return fd_; }
    int give() { return std::exchange(fd_, -1); }
    explicit operator bool() const { return fd_ >= 0; }
    /// A second descriptor of the same file, closed on exec. Throws Error when the process has none left.
    Fd copy() const;

private:
    int fd_ = -1;
};

/// One sealed, sparse memfd, mapped whole. It has no name, so nothing stays behind after the last process has gone.
class Segment {
public:
    /// Sizes are rounded up: rings to a power of two, the arena to whole chunks. Throws Error when the kernel refuses.
    static Segment create(std::string_view name, std::uint64_t ring_bytes, std::uint64_t arena_bytes);

    /// Maps what another process created, after checking seals, size, version and layout. Throws Error.
    static Segment open(Fd memfd);

    const layout::Geometry& geometry() const { return geometry_; }
    std::byte* at(std::uint64_t offset) const { return base_ + offset; }

    layout::Header& header() const { return *reinterpret_cast<layout::Header*>(at(0)); }
    layout::Peer& peer(std::uint32_t slot) const { return reinterpret_cast<layout::Peer*>(at(geometry_.peers))[slot]; }
    layout::AttachRow& attachments(std::uint32_t to) const {
        return reinterpret_cast<layout::AttachRow*>(at(geometry_.attachments))[to];
    }
    layout::RingPositions& positions(std::uint32_t from, std::uint32_t to) const {
        return reinterpret_cast<layout::RingPositions*>(at(geometry_.positions))[from * layout::max_peers + to];
    }
    std::uint64_t ring_offset(std::uint32_t from, std::uint32_t to) const {
        return geometry_.ring_data + (from * layout::max_peers + to) * geometry_.ring_bytes;
    }
    std::uint64_t board_offset(std::uint32_t slot) const { return geometry_.boards + slot * sizeof(layout::Board); }
    layout::Board& board(std::uint32_t slot) const { return *reinterpret_cast<layout::Board*>(at(board_offset(slot))); }
    layout::Chunk* chunks() const { return reinterpret_cast<layout::Chunk*>(at(geometry_.chunks)); }
    layout::Block* blocks() const { return reinterpret_cast<layout::Block*>(at(geometry_.blocks)); }

    /// Gives the range pages, so that touching it can't raise SIGBUS. no_memory when the system has none.
    [[nodiscard]] Status reserve(std::uint64_t offset, std::uint64_t bytes) const noexcept;
    /// Gives the range's pages back to the system; it reads as zeros afterwards.
    void punch(std::uint64_t offset, std::uint64_t bytes) const noexcept;

    int fd() const { return memfd_.get(); }

private:
    Segment(Fd memfd, std::uint64_t bytes);

    Fd memfd_;
    std::unique_ptr<boost::interprocess::mapped_region> region_;
    std::byte* base_ = nullptr;
    layout::Geometry geometry_{};
};

}  // namespace isthmus
