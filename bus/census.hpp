// Who has what of the arena, read from outside out of its tables, without help from anybody.
#pragma once

#include <array>
#include <string>

#include "bus/arena.hpp"

namespace isthmus {

/// In bytes. The tables change while they are read, and others may have written anything: the sums need not add up.
struct Census {
    struct Share {
        std::uint64_t owned = 0;   // in chunks that the peer has taken
        std::uint64_t leased = 0;  // in blocks that it keeps alive, whoever owns them
    };
    std::uint64_t bytes = 0;     // all of it
    std::uint64_t free = 0;      // in chunks that nobody has taken
    std::uint64_t longest = 0;   // the longest free piece
    std::uint64_t leased = 0;    // in blocks that anybody keeps alive
    std::uint64_t orphaned = 0;  // in chunks of peers that are gone, whose blocks others keep alive
    std::array<Share, layout::max_peers> peers{};
};
Census census(const ArenaMemory& memory);

/// Bytes for a person: `1.5 GiB`.
std::string text_of_bytes(std::uint64_t bytes);

}  // namespace isthmus
