#include "bus/lending.hpp"

#include <algorithm>

namespace isthmus {

/// Whether nobody holds it afterwards.
bool Lending::add(Uses& uses, std::uint32_t slot, std::int64_t more) {
    const auto at = std::find_if(uses.begin(), uses.end(), [slot](const auto& each) { return each.first == slot; });
    if (at == uses.end()) {
        if (more != 0) uses.emplace_back(slot, more);
    } else if ((at->second += more) == 0) {
        uses.erase(at);
    }
    return uses.empty();
}

void Lending::lend(std::uint64_t id, std::uint32_t slot, std::int64_t uses) {
    const auto at = uses_.try_emplace(id).first;
    if (!add(at->second, slot, uses)) return;
    uses_.erase(at);
    free_.push_back(id);
}

void Lending::change(std::uint64_t id, std::uint32_t slot, std::int64_t uses) {
    if (uses_.contains(id)) lend(id, slot, uses);
}

std::vector<std::uint64_t> Lending::take_free() {
    auto free = std::exchange(free_, {});
    std::erase_if(free, [this](std::uint64_t id) { return uses_.contains(id); });
    std::sort(free.begin(), free.end());
    free.erase(std::unique(free.begin(), free.end()), free.end());
    return free;
}

void Lending::forget(std::uint32_t slot) {
    for (auto at = uses_.begin(); at != uses_.end();) {
        std::erase_if(at->second, [slot](const auto& each) { return each.first == slot; });
        if (at->second.empty()) {
            free_.push_back(at->first);
            at = uses_.erase(at);
        } else {
            ++at;
        }
    }
}

}  // namespace isthmus
