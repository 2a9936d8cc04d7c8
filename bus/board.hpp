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

/// Shows these names in place of those before. The peer's thread. too_large when they don't fit layout::board_bytes, no_memory.
[[nodiscard]] Status publish(const Segment& segment, std::uint32_t slot, std::uint32_t generation,
                             std::span<const std::string> names);
/// What the peer of this slot and generation exports. Nothing when it shows no names, or is writing them, or wrote nonsense.
std::vector<std::string> read(const Segment& segment, std::uint32_t slot, std::uint32_t generation);

}  // namespace isthmus::board
