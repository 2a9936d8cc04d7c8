// One producer, one consumer, variable-length records in given memory.
//
//   producer: claim -> write in place -> commit (or abort) -> ... -> publish     one release store for many records
//   consumer: peek -> copy out -> release -> ... -> retire                       likewise
//
// A producer that dies between claim and publish has not moved the tail: nobody sees what it wrote. Each side keeps its own
// position in private memory and checks the other's against it; an impossible one is Status::corrupt and never clamped.
// Shape of the ring: Aeron's SPSC ring buffer and io_uring; positions are monotonic, so full and empty differ.
#pragma once

#include <cstring>
#include <span>

#include "bus/layout.hpp"
#include "bus/status.hpp"

namespace isthmus::ring {

inline constexpr std::uint64_t header_bytes = sizeof(layout::RecordHeader);

constexpr std::uint64_t record_bytes(std::uint64_t payload) { return (header_bytes + payload + 7) & ~std::uint64_t{7}; }

/// The writing half. `Positions` is layout::RingPositions, or a model of it. One thread at a time.
template <class Positions>
class BasicProducer {
public:
    BasicProducer(Positions& positions, std::byte* data, std::uint64_t capacity, std::uint64_t start = 0)
        : positions_(&positions), data_(data), capacity_(capacity), written_(start), published_(start), head_(start) {}

    struct Claim {
        Status status;     // ok, full or corrupt
        std::byte* bytes;  // 8-byte aligned, contiguous; null unless ok
    };

    /// Room for a record of up to `bytes`, such that `reserve` bytes stay free behind it. Nothing moves until commit.
    Claim claim(std::uint64_t bytes, std::uint64_t reserve = 0) {
        const std::uint64_t need = record_bytes(bytes);
        const std::uint64_t at = written_ & (capacity_ - 1);
        const std::uint64_t to_end = capacity_ - at;
        padding_ = need > to_end ? to_end : 0;
        if (free() < padding_ + need + reserve) {
            if (!look()) return {Status::corrupt, nullptr};
            if (free() < padding_ + need + reserve) return {Status::full, nullptr};
        }
        claimed_ = bytes;
        return {Status::ok, data_ + (padding_ ? 0 : at) + header_bytes};
    }

    /// Makes the claimed record part of what publish will show, with its real size, at most what was claimed.
    void commit(layout::RecordKind kind, std::uint64_t bytes) {
        if (padding_) {
            put_header(written_ & (capacity_ - 1), padding_ - header_bytes, layout::RecordKind::padding);
            written_ += padding_;
        }
        put_header(written_ & (capacity_ - 1), bytes, kind);
        written_ += record_bytes(bytes);
        padding_ = claimed_ = 0;
    }

    void abort() { padding_ = claimed_ = 0; }

    /// Shows all committed records to the consumer. False when there was nothing to show.
    bool publish() {
        if (published_ == written_) return false;
        published_ = written_;
        positions_->tail.store(written_,
                               std::memory_order_release);  // pairs with "tail" in Consumer: records before position
        return true;
    }

    /// Reads how far the consumer is. False when it claims to be where it can't be.
    bool look() {
        const std::uint64_t head =
            positions_->head.load(std::memory_order_acquire);  // pairs with "head": copied before reuse
        if (head - head_ > published_ - head_ || head % 8 != 0) return false;
        head_ = head;
        return true;
    }

    std::uint64_t written() const { return written_; }
    std::uint64_t consumed() const { return head_; }
    std::uint64_t free() const { return capacity_ - (written_ - head_); }
    std::uint64_t capacity() const { return capacity_; }

private:
    void put_header(std::uint64_t at, std::uint64_t bytes, layout::RecordKind kind) {
        const layout::RecordHeader header{static_cast<std::uint32_t>(bytes), static_cast<std::uint32_t>(kind)};
        std::memcpy(data_ + at, &header, sizeof header);
    }

    Positions* positions_;
    std::byte* data_;
    std::uint64_t capacity_;
    std::uint64_t written_;    // private truth
    std::uint64_t published_;  // the tail as the consumer may see it
    std::uint64_t head_;       // the consumer's position when last looked at
    std::uint64_t padding_ = 0;
    std::uint64_t claimed_ = 0;
};

/// The reading half. What peek returns lies in shared memory: the producer may change it at any time, so copy it once.
template <class Positions>
class BasicConsumer {
public:
    BasicConsumer(Positions& positions, const std::byte* data, std::uint64_t capacity, std::uint64_t start = 0)
        : positions_(&positions), data_(data), capacity_(capacity), read_(start), retired_(start), tail_(start) {}

    struct Record {
        Status status;  // ok, empty or corrupt
        layout::RecordKind kind;
        std::span<const std::byte> bytes;
    };

    /// The next record, without consuming it.
    Record peek() {
        for (;;) {
            if (read_ == tail_) {
                const std::uint64_t tail = positions_->tail.load(std::memory_order_acquire);  // pairs with "tail"
                if (tail == tail_) return {Status::empty, {}, {}};
                // No further than from what was given back: whoever refills what is merely read would keep this loop busy.
                if (tail - read_ > capacity_ - (read_ - retired_) || tail % 8 != 0) return {Status::corrupt, {}, {}};
                tail_ = tail;
            }
            const std::uint64_t at = read_ & (capacity_ - 1);
            layout::RecordHeader header;
            std::memcpy(&header, data_ + at, sizeof header);
            const std::uint64_t whole = record_bytes(header.bytes);
            if (whole > tail_ - read_ || whole > capacity_ - at) return {Status::corrupt, {}, {}};
            const auto kind = static_cast<layout::RecordKind>(header.kind);
            if (kind == layout::RecordKind::padding) {
                read_ += whole;
                continue;
            }
            if (kind != layout::RecordKind::frame && kind != layout::RecordKind::indirect)
                return {Status::corrupt, {}, {}};
            next_ = read_ + whole;
            return {Status::ok, kind, {data_ + at + header_bytes, header.bytes}};
        }
    }

    /// Steps over the record that peek returned.
    void release() { read_ = next_; }

    /// Gives the room of all released records back to the producer. False when there was none to give.
    bool retire() {
        if (retired_ == read_) return false;
        retired_ = read_;
        positions_->head.store(read_, std::memory_order_release);  // pairs with "head" in Producer: copied before reuse
        return true;
    }

    /// Whether a peek would find something, at the price of one load.
    bool ready() const { return read_ != tail_ || positions_->tail.load(std::memory_order_acquire) != tail_; }

    std::uint64_t read() const { return read_; }

private:
    Positions* positions_;
    const std::byte* data_;
    std::uint64_t capacity_;
    std::uint64_t read_;     // private truth
    std::uint64_t retired_;  // the head as the producer may see it
    std::uint64_t tail_;     // the producer's position when last looked at
    std::uint64_t next_ = 0;
};

using Producer = BasicProducer<layout::RingPositions>;
using Consumer = BasicConsumer<layout::RingPositions>;

}  // namespace isthmus::ring
