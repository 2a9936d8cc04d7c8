// The words for outcomes. Expected outcomes are values; exceptions are for set-up.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace isthmus {

enum class Status : std::uint8_t {
    ok,
    empty,
    full,
    too_large,
    no_memory,
    lost,
    corrupt,
    stale,
    timed_out,
    not_exported,
    no_bus,
    refused,
    crowded,
    mismatch,
    closed,
    busy,
    unsafe,
    cancelled,
    over_quota,
};

/// One sentence for a person, without a full stop, for each outcome.
constexpr std::string_view sentence(Status status) {
    switch (status) {
        case Status::ok: return "done";
        case Status::empty: return "nothing is there yet";
        case Status::full: return "no room: the other side does not keep up";
        case Status::too_large: return "too large for one message";
        case Status::no_memory: return "the bus is out of memory: release arrays, or serve it with a larger memory";
        case Status::lost: return "the other side is gone";
        case Status::corrupt: return "the other side wrote bytes that break the protocol, so its link was closed";
        case Status::stale: return "the block was released already";
        case Status::timed_out: return "the time ran out";
        case Status::not_exported: return "no function is exported under this name";
        case Status::no_bus: return "no bus of this name is being served";
        case Status::refused: return "the bus belongs to another user";
        case Status::crowded: return "the bus has its 64 peers already";
        case Status::mismatch:
            return "the other side speaks another version of the protocol: use the same release on both sides";
        case Status::closed: return "the bus is closed";
        case Status::busy: return "a bus of this name is being served already";
        case Status::over_quota:
            return "this peer has its share of the bus's memory in use: release arrays, or serve it with a larger "
                   "memory";
        case Status::cancelled: return "the call was cancelled";
        case Status::unsafe: return "the socket's directory is not private to this user";
    }
    return "unknown";
}

/// Thrown where a bus is set up: serving, joining, mapping. `what()` is a whole sentence.
class Error : public std::runtime_error {
public:
    Error(Status status, const std::string& what) : std::runtime_error(what), status_(status) {}
    explicit Error(Status status) : Error(status, std::string(sentence(status))) {}
    Status status() const noexcept { return status_; }

private:
    Status status_;
};

}  // namespace isthmus
