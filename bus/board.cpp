#include "bus/board.hpp"

#include <algorithm>
#include <cstring>

namespace isthmus::board {

namespace {

constexpr std::uint64_t first_version(std::uint32_t generation) { return std::uint64_t{generation} << 32; }

}  // namespace

Status publish(const Segment& segment, std::uint32_t slot, std::uint32_t generation,
               std::span<const std::string> names) {
    std::vector<std::uint64_t> words;
    std::size_t bytes = 0;
    for (const std::string& name : names) {
        const auto length = static_cast<std::uint16_t>(name.size());
        if (name.size() > layout::board_bytes || bytes + sizeof length + length > layout::board_bytes)
            return Status::too_large;
        words.resize((bytes + sizeof length + length + 7) / 8);
        auto* at = reinterpret_cast<std::byte*>(words.data()) + bytes;
        std::memcpy(at, &length, sizeof length);
        std::memcpy(at + sizeof length, name.data(), length);
        bytes += sizeof length + length;
    }
    const Status reserved = segment.reserve(segment.board_offset(slot), sizeof(layout::Board));
    if (reserved != Status::ok) return reserved;
    layout::Board& board = segment.board(slot);
    layout::Word64& version_word = segment.peer(slot).board;
    std::uint64_t version = version_word.load(std::memory_order_relaxed);
    if (version >> 32 != generation) version = first_version(generation);
    version_word.store(version | 1, std::memory_order_relaxed);
    // Release, so that who sees one of these words sees the odd version too: pairs with "board words" in read.
    board.bytes.store(bytes, std::memory_order_release);
    for (std::size_t i = 0; i < words.size(); ++i) board.words[i].store(words[i], std::memory_order_release);
    version_word.store((version | 1) + 1, std::memory_order_release);  // pairs with "board version" in read
    return Status::ok;
}

std::vector<std::string> read(const Segment& segment, std::uint32_t slot, std::uint32_t generation) {
    constexpr int tries = 3;
    const layout::Board& board = segment.board(slot);
    const layout::Word64& version_word = segment.peer(slot).board;
    for (int i = 0; i < tries; ++i) {
        const std::uint64_t version = version_word.load(std::memory_order_acquire);  // "board version"
        if (version >> 32 != generation) return {};
        if (version % 2 != 0) continue;
        const std::uint64_t bytes = board.bytes.load(std::memory_order_acquire);  // "board words", as below
        if (bytes > layout::board_bytes) return {};
        std::vector<std::uint64_t> words((bytes + 7) / 8);
        for (std::size_t w = 0; w < words.size(); ++w) words[w] = board.words[w].load(std::memory_order_acquire);
        if (version_word.load(std::memory_order_relaxed) != version) continue;

        std::vector<std::string> names;
        const auto* at = reinterpret_cast<const char*>(words.data());
        for (std::uint64_t done = 0; done < bytes;) {
            std::uint16_t length;
            if (bytes - done < sizeof length) return {};
            std::memcpy(&length, at + done, sizeof length);
            done += sizeof length;
            if (bytes - done < length) return {};
            names.emplace_back(at + done, length);
            done += length;
        }
        return names;
    }
    return {};
}

}  // namespace isthmus::board
