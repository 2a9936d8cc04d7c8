#include "bus/board.hpp"

#include <cstring>

namespace isthmus::board {

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
    store(segment.peer(slot).board, board.bytes, board.words, generation, words, bytes);
    return Status::ok;
}

std::vector<std::string> read(const Segment& segment, std::uint32_t slot, std::uint32_t generation) {
    constexpr int tries = 3;
    const layout::Board& board = segment.board(slot);
    std::uint64_t bytes = 0;
    std::optional<std::vector<std::uint64_t>> words;
    for (int i = 0; i < tries && !words; ++i) {
        words = load(segment.peer(slot).board, board.bytes, board.words, generation, bytes);
    }
    if (!words) return {};
    std::vector<std::string> names;
    const auto* at = reinterpret_cast<const char*>(words->data());
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

}  // namespace isthmus::board
