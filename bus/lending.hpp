// How long an object has to live that other peers refer to. The owner's side: numbers alone, without the objects.
//
// Each reference that is sent is one use more for its receiver. A receiver counts the references it was sent for an object,
// and gives all of them back at once (a release frame) when it has dropped the last: what crosses on the way stays counted.
// A holder that passes a reference on tells the owner first (a share frame), on the link on which its own release will follow.
// The receiver's release may overtake the share on another link: counts are signed, and an object is free when all are zero.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace isthmus {

class Lending {
public:
    /// A reference was sent to the peer in `slot`, or what was counted was not sent after all (-1).
    void lend(std::uint64_t id, std::uint32_t slot, std::int64_t uses = 1);
    /// What the peers' frames say. Ids that are not lent are ignored.
    void share(std::uint64_t id, std::uint32_t slot) { change(id, slot, 1); }
    void release(std::uint64_t id, std::uint32_t slot, std::int64_t uses) { change(id, slot, -uses); }
    /// The peer is gone, and all that it held.
    void forget(std::uint32_t slot);
    /// The objects that nobody refers to any more, each told once; not those that were lent anew meanwhile.
    std::vector<std::uint64_t> take_free();
    bool has_free() const { return !free_.empty(); }
    std::size_t size() const { return uses_.size(); }

private:
    using Uses = std::vector<std::pair<std::uint32_t, std::int64_t>>;  // by slot, without zeros
    void change(std::uint64_t id, std::uint32_t slot, std::int64_t uses);
    bool add(Uses& uses, std::uint32_t slot, std::int64_t more);

    std::unordered_map<std::uint64_t, Uses> uses_;
    std::vector<std::uint64_t> free_;
};

}  // namespace isthmus
