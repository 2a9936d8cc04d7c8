// What a peer shows on its board, in every schedule; and how long a lent object lives, in every order of its messages.
#include <array>
#include <deque>
#include <set>

#include "../bus/catch.hpp"
#include "bus/board.hpp"
#include "bus/lending.hpp"
#include "explorer.hpp"

namespace isthmus::models {
namespace {

/// A writer that replaces two words by two others, and a reader that looks once.
Outcome explore_board(bool mutate) {
    Model model;
    Word version{std::uint64_t{1} << 32 | 2}, size{16}, words[2]{Word{1}, Word{1}};
    if (mutate) {
        for (Word* word : {&version, &size, &words[0], &words[1]}) word->forget_order();
    }
    model.thread([&] {
        const std::uint64_t content[] = {2, 2};
        board::store(version, size, words, 1, content, 16);
    });
    model.thread([&] {
        std::uint64_t bytes = 0;
        const auto seen = board::load(version, size, words, 1, bytes);
        if (seen) Model::require((*seen)[0] == (*seen)[1], "half of what was written was seen");
    });
    return model.explore();
}

/// An owner lends one object to `first`, which passes it on to `second`; both give it back when they like, and `second` may die.
/// Links are queues, in order each, and any of them may be the next to be read.
class Loan {
public:
    enum class Order { as_is, release_on_another_way };
    explicit Loan(Order order) : order_(order) {}

    struct Outcome {
        std::size_t states = 0;
        std::string broken;
    };
    Outcome explore() {
        visit(State());
        return {visited_.size(), broken_};
    }

private:
    enum Letter : char { reference = 'r', share = 's', release = 'g', goodbye = 'x' };
    enum Peer { owner, first, second };
    struct State {
        Lending lending;
        std::array<std::array<std::deque<char>, 3>, 3> way;  // [from][to]
        std::array<int, 3> holds{};                          // references received and not given back
        int sent = 0, passed = 0;
        bool alive = true, freed = false;  // of `second`; of the object
        std::string key() const {
            std::string key;
            for (const auto& from : way) {
                for (const auto& to : from) key.append(to.begin(), to.end()) += '|';
            }
            for (const int each : {holds[first], holds[second], sent, passed, int{alive}, int{freed}})
                key += static_cast<char>('0' + each);
            return key;
        }
    };

    void visit(State state) {
        if (!broken_.empty() || !visited_.insert(state.key()).second) return;
        check(state);
        for (int from = 0; from < 3; ++from) {
            for (int to = 0; to < 3; ++to) {
                if (state.way[from][to].empty()) continue;
                State next = state;
                next.way[from][to].pop_front();
                deliver(next, from, to, state.way[from][to].front());
                visit(next);
            }
        }
        if (state.sent < 2 && !state.freed) {
            State next = state;
            ++next.sent;
            next.lending.lend(1, first);
            next.way[owner][first].push_back(reference);
            visit(next);
        }
        if (state.holds[first] > 0 && state.passed < 2) {
            State next = state;
            ++next.passed;
            next.way[first][owner].push_back(share);
            next.way[first][second].push_back(reference);
            visit(next);
        }
        for (const int holder : {first, second}) {
            if (state.holds[holder] == 0 || (holder == second && !state.alive)) continue;
            State next = state;
            // One letter for each reference: the sum is what counts.
            for (; next.holds[holder] > 0; --next.holds[holder]) {
                if (order_ == Order::as_is || holder == second) {
                    next.way[holder][owner].push_back(release);
                } else {
                    next.way[holder][owner].push_front(release);
                }
            }
            visit(next);
        }
        if (state.alive && state.passed > 0) {
            State next = state;
            next.alive = false;
            next.holds[second] = 0;
            next.way[second][owner].push_back(goodbye);  // what it wrote is read before its link ends
            visit(next);
        }
    }

    static void deliver(State& state, int from, int to, char letter) {
        if (letter == reference) {
            if (to == first || state.alive) ++state.holds[to];
        } else if (letter == share) {
            if (state.alive) state.lending.share(1, second);  // to the dead there is no link
        } else if (letter == release) {
            state.lending.release(1, static_cast<std::uint32_t>(from), 1);
        } else {
            state.lending.forget(second);
        }
        state.freed = state.freed || !state.lending.take_free().empty();
    }

    void check(const State& state) {
        const auto on_its_way = [&](int from, int to) {
            for (const char letter : state.way[from][to]) {
                if (letter == reference && (to != second || state.alive)) return true;
            }
            return false;
        };
        const bool held =
            state.holds[first] > 0 || state.holds[second] > 0 || on_its_way(owner, first) || on_its_way(first, second);
        if (state.freed && held) broken_ = "the object was freed while somebody referred to it: " + state.key();
        bool quiet = true;
        for (const auto& ways : state.way) {
            for (const auto& way : ways) quiet = quiet && way.empty();
        }
        if (quiet && !held && state.sent > 0 && !state.freed)
            broken_ = "the object was kept though nobody refers to it: " + state.key();
    }

    Order order_;
    std::set<std::string> visited_;
    std::string broken_;
};

}  // namespace

TEST_CASE("nobody reads half of what a peer shows", "[model]") {
    const auto outcome = explore_board(false);
    INFO(outcome.states << " states");
    CHECK(outcome.broken == "");
}

TEST_CASE("a board whose stores order nothing shows halves, and the model sees it", "[model]") {
    CHECK(explore_board(true).broken != "");
}

TEST_CASE("an object is freed when nobody refers to it, not before and not never", "[model]") {
    const auto outcome = Loan(Loan::Order::as_is).explore();
    INFO(outcome.states << " states");
    CHECK(outcome.states > 100);
    CHECK(outcome.broken == "");
}

TEST_CASE("a release that overtakes its own peer's share frees too early, and the model sees it", "[model]") {
    CHECK(Loan(Loan::Order::release_on_another_way).explore().broken.find("was freed") != std::string::npos);
}

}  // namespace isthmus::models
