#include "bus/census.hpp"

#include <algorithm>
#include <bit>

namespace isthmus {

Census census(const ArenaMemory& memory) {
    Census found{.bytes = memory.bytes};
    std::uint64_t run = 0;
    for (std::uint64_t i = 0; i < memory.chunk_count(); ++i) {
        const std::uint64_t owner = memory.chunks[i].owner.load(std::memory_order_acquire);
        run = owner == 0 ? run + layout::chunk_bytes : 0;
        found.longest = std::max(found.longest, run);
        if (owner == 0) {
            found.free += layout::chunk_bytes;
            continue;  // its block words may have no pages
        }
        const std::uint64_t slot = (owner & 0xff) - 1;
        if (owner == layout::orphan) found.orphaned += layout::chunk_bytes;
        if (slot < layout::max_peers) found.peers[slot].owned += layout::chunk_bytes;
        for (std::uint32_t b = 0; b < memory.blocks_in(i); ++b) {
            const auto index = static_cast<std::uint32_t>(i * layout::blocks_per_chunk + b);
            std::uint64_t leases = memory.blocks[index].leases.load(std::memory_order_relaxed);
            const std::uint64_t bytes = leases != 0 ? memory.extent(index).bytes : 0;
            found.leased += bytes;
            for (; leases != 0; leases &= leases - 1)
                found.peers[static_cast<std::size_t>(std::countr_zero(leases))].leased += bytes;
        }
    }
    return found;
}

std::string text_of_bytes(std::uint64_t bytes) {
    constexpr std::array units{" bytes", " KiB", " MiB", " GiB", " TiB"};
    std::size_t unit = 0;
    std::uint64_t whole = bytes, tenths = 0;
    for (; whole >= 1024 && unit + 1 < units.size(); ++unit) {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
    }
    const std::string fraction = tenths != 0 && whole < 100 ? "." + std::to_string(tenths) : "";
    return std::to_string(whole) + fraction + units[unit];
}

}  // namespace isthmus
