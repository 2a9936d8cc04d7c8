#include "bus/segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace isthmus {

namespace {

constexpr int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

/// What mapped_region asks of a MemoryMappable.
struct Mappable {
    int fd;
    boost::interprocess::mapping_handle_t get_mapping_handle() const { return {fd, false}; }
};

[[noreturn]] void fail(Status status, const std::string& what) {
    throw Error(status, what + ": " + std::strerror(errno));
}

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
    if (this != &other) {
        if (fd_ >= 0) ::close(fd_);
        fd_ = other.give();
    }
    return *this;
}

Fd::~Fd() {
    if (fd_ >= 0) ::close(fd_);
}

Fd Fd::copy() const {
    const int second = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
    if (second < 0) fail(Status::no_memory, "cannot duplicate a file descriptor");
    return Fd(second);
}

Segment::Segment(Fd memfd, std::uint64_t bytes) : memfd_(std::move(memfd)) {
    namespace ipc = boost::interprocess;
    try {
        region_ = std::make_unique<ipc::mapped_region>(Mappable{memfd_.get()}, ipc::read_write, 0, bytes);
    } catch (const ipc::interprocess_exception& error) {
        throw Error(Status::no_memory,
                    "cannot map " + std::to_string(bytes >> 20) + " MiB of shared memory: " + error.what());
    }
    base_ = static_cast<std::byte*>(region_->get_address());
    ::madvise(base_, bytes, MADV_DONTDUMP);  // users' data stays out of core dumps
}

Segment Segment::create(std::string_view name, std::uint64_t ring_bytes, std::uint64_t arena_bytes) {
    if (arena_bytes > layout::most_arena_bytes) {
        throw Error(Status::no_memory, "a bus can't have more than " + std::to_string(layout::most_arena_bytes >> 30) +
                                           " GiB of memory: ask for less");
    }
    const auto ring = std::bit_ceil(std::clamp(ring_bytes, layout::least_ring_bytes, layout::most_ring_bytes));
    const auto arena =
        std::max<std::uint64_t>(1, (arena_bytes + layout::chunk_bytes - 1) / layout::chunk_bytes) * layout::chunk_bytes;
    const auto geometry = layout::geometry(ring, arena);

    Fd memfd(::memfd_create("isthmus", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memfd) fail(Status::no_memory, "cannot create shared memory");
    if (::ftruncate(memfd.get(), static_cast<off_t>(geometry.segment_bytes)) < 0) {
        fail(Status::no_memory,
             "cannot size shared memory to " + std::to_string(geometry.segment_bytes >> 20) + " MiB");
    }
    if (::fchmod(memfd.get(), 0600) < 0) fail(Status::unsafe, "cannot make shared memory private");
    if (::fcntl(memfd.get(), F_ADD_SEALS, seals) < 0) fail(Status::unsafe, "cannot seal shared memory");

    Segment segment(std::move(memfd), geometry.segment_bytes);
    segment.geometry_ = geometry;
    // The small tables get their pages now, 16 KiB of blocks with each chunk, a ring with its link.
    if (segment.reserve(0, geometry.blocks) != Status::ok) throw Error(Status::no_memory);
    auto& header = *new (segment.at(0)) layout::Header{};
    header.magic = layout::magic;
    header.version = layout::version;
    header.header_bytes = sizeof header;
    header.layout_hash = layout::hash();
    header.segment_bytes = geometry.segment_bytes;
    header.ring_bytes = ring;
    header.arena_bytes = arena;
    header.broker_pid = static_cast<std::uint32_t>(::getpid());
    name.copy(header.name, sizeof header.name - 1);
    return segment;
}

Segment Segment::open(Fd memfd) {
    struct stat file{};
    if (::fstat(memfd.get(), &file) < 0) fail(Status::mismatch, "cannot look at the bus's memory");
    if ((::fcntl(memfd.get(), F_GET_SEALS) & seals) != seals) {
        throw Error(Status::unsafe, "the bus's memory is not sealed, so it could shrink under its users");
    }
    layout::Header header;
    if (::pread(memfd.get(), static_cast<void*>(&header), sizeof header, 0) != static_cast<ssize_t>(sizeof header) ||
        header.magic != layout::magic) {
        throw Error(Status::mismatch, "what the broker handed over is not the memory of a bus");
    }
    const bool sane = std::has_single_bit(header.ring_bytes) && header.ring_bytes >= layout::least_ring_bytes &&
                      header.ring_bytes <= layout::most_ring_bytes && header.arena_bytes > 0 &&
                      header.arena_bytes % layout::chunk_bytes == 0 && header.arena_bytes <= layout::most_arena_bytes;
    if (header.version != layout::version || header.layout_hash != layout::hash() || !sane)
        throw Error(Status::mismatch);
    const auto geometry = layout::geometry(header.ring_bytes, header.arena_bytes);
    if (header.segment_bytes != geometry.segment_bytes ||
        static_cast<std::uint64_t>(file.st_size) != geometry.segment_bytes) {
        throw Error(Status::mismatch, "the bus's memory has not the size that its header names");
    }
    Segment segment(std::move(memfd), geometry.segment_bytes);
    segment.geometry_ = geometry;
    return segment;
}

Status Segment::reserve(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    int done;
    do {
        done = ::fallocate(memfd_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(bytes));
    } while (done < 0 && errno == EINTR);
    return done == 0 ? Status::ok : Status::no_memory;
}

void Segment::punch(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    ::fallocate(memfd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(bytes));
}

}  // namespace isthmus
