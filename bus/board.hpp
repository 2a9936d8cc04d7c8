// The names of what a peer exports, where everybody can read them: in the segment, without asking anyone.
//
// One writer, any number of readers, none of which waits for another. The words are copied out, and the copy is used if
// nothing was written meanwhile.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bus/segment.hpp"

namespace isthmus::board {

/// Replaces what is shown. `version` is generation << 32 | count of writes, odd during one. A template for the models' sake.
template <class Word>
void store(Word& version, Word& size, Word* words, std::uint32_t generation, std::span<const std::uint64_t> content,
           std::uint64_t bytes) {
    std::uint64_t now = version.load(std::memory_order_relaxed);
    if (now >> 32 != generation) now = std::uint64_t{generation} << 32;
    version.store(now | 1, std::memory_order_relaxed);
    // Release, so that who sees one of these words sees the odd version too: pairs with "board words" in load.
    size.store(bytes, std::memory_order_release);
    for (std::size_t i = 0; i < content.size(); ++i) words[i].store(content[i], std::memory_order_release);
    version.store((now | 1) + 1, std::memory_order_release);  // pairs with "board version" in load
}

/// What is shown, and its size in bytes; nothing while it is being replaced, or when it is another generation's.
template <class Word>
std::optional<std::vector<std::uint64_t>> load(const Word& version, const Word& size, const Word* words,
                                               std::uint32_t generation, std::uint64_t& bytes) {
    const std::uint64_t before = version.load(std::memory_order_acquire);  // "board version"
    if (before >> 32 != generation || before % 2 != 0) return std::nullopt;
    bytes = size.load(std::memory_order_acquire);  // "board words", as below
    if (bytes > layout::board_bytes) return std::nullopt;
    std::vector<std::uint64_t> content((bytes + 7) / 8);
    for (std::size_t i = 0; i < content.size(); ++i) content[i] = words[i].load(std::memory_order_acquire);
    if (version.load(std::memory_order_relaxed) != before) return std::nullopt;
    return content;
}

/// Shows these names in place of those before. The peer's thread. too_large when they don't fit layout::board_bytes, no_memory.
[[nodiscard]] Status publish(const Segment& segment, std::uint32_t slot, std::uint32_t generation,
                             std::span<const std::string> names);
/// What the peer of this slot and generation exports. Nothing when it shows no names, or is writing them, or wrote nonsense.
std::vector<std::string> read(const Segment& segment, std::uint32_t slot, std::uint32_t generation);

}  // namespace isthmus::board
