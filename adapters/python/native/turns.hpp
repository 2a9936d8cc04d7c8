// Queues that take turns: one for each owner, first in, first out.
#pragma once

#include <cstddef>
#include <deque>
#include <utility>
#include <vector>

namespace isthmus::python {

// Items may be emptied where they stand, and added, while one looks at them.
template <class Owner, class Item>
class Turns {
public:
    bool empty() const { return size_ == 0; }
    std::size_t size() const { return size_; }

    /// How many the owner has then.
    std::size_t push_back(const Owner* owner, Item item) {
        std::deque<Item>& queue = queue_of(owner);
        queue.push_back(std::move(item));
        ++size_;
        return queue.size();
    }
    /// Before all others of its owner.
    void push_front(const Owner* owner, Item item) {
        queue_of(owner).push_front(std::move(item));
        ++size_;
    }
    /// The first of the owner whose turn it is; there is one.
    Item take() {
        while (queues_[turn_ % queues_.size()].second.empty()) drop(turn_ % queues_.size());
        std::deque<Item>& queue = queues_[turn_++ % queues_.size()].second;
        Item item = std::move(queue.front());
        queue.pop_front();
        --size_;
        return item;
    }

    /// Each that is there, and those that are added meanwhile to its owner's queue or to a new one.
    template <class Look>
    void for_each(Look&& look) {
        for (std::size_t i = 0; i < queues_.size(); ++i) {
            for (std::size_t j = 0; j < queues_[i].second.size(); ++j) look(queues_[i].second[j]);
        }
    }
    template <class Is>
    bool any_of(Is&& is) const {
        for (const auto& [owner, queue] : queues_) {
            for (const Item& item : queue) {
                if (is(item)) return true;
            }
        }
        return false;
    }
    /// Drops from the head of each queue as long as `is` is true.
    template <class Is>
    void drop_first(Is&& is) {
        for (auto& [owner, queue] : queues_) {
            for (; !queue.empty() && is(queue.front()); queue.pop_front()) --size_;
        }
    }

private:
    std::deque<Item>& queue_of(const Owner* owner) {
        for (auto& [other, queue] : queues_) {
            if (other == owner) return queue;
        }
        return queues_.emplace_back(owner, std::deque<Item>()).second;
    }
    /// The next one's turn is what it would have been.
    void drop(std::size_t i) {
        queues_.erase(queues_.begin() + static_cast<std::ptrdiff_t>(i));
        turn_ = i;
    }

    std::vector<std::pair<const Owner*, std::deque<Item>>> queues_;
    std::size_t turn_ = 0;
    std::size_t size_ = 0;
};

}  // namespace isthmus::python
