// A peer for tests: joins a bus, answers calls with what they carried, checks the answers to its own.
#pragma once

#include <thread>

#include "process.hpp"
#include "support.hpp"

namespace isthmus::test {

struct Player : Correspondent {
    Player(const std::string& name, bool service, std::uint32_t worker = 0) : bus(join(name, service, 10s, worker)) {}

    Bus::Received receive() { return receive_from(*bus); }
    Status submit(wire::Kind kind, std::uint64_t id, std::size_t bytes) {
        Link* link = bus->service();
        return link ? link->submit(draft(kind, id, bytes)) : Status::lost;
    }
    /// A call with an array of the arena, all of one byte, and a lease that ends with the sending.
    Status submit_array(std::uint64_t id, std::size_t bytes) {
        Link* link = bus->service();
        if (!link) return Status::lost;
        const auto made = bus->arena().allocate(bytes);
        if (made.status != Status::ok) return made.status;
        std::memset(bus->arena().at(made.handle), letter(id), bytes);
        values.clear();
        const std::uint64_t shape[] = {bytes};
        values.array(wire::DType::uint8, wire::cell_leased, values.payload(made.handle), shape);
        const Status status = link->submit(
            {.kind = wire::Kind::call, .target = 0, .id = id, .cells = values.cells(), .payloads = values.payloads()});
        (void)bus->arena().release(made.handle.block, made.handle.generation);
        return status;
    }

    /// One turn of a loop: everything that came is answered or checked.
    int sweep() {
        bus->attend([this](Link&, Status why) { lost.push_back(why); });
        int frames = 0;
        for (auto got = receive(); got.status == Status::ok; got = receive()) {
            ++frames;
            bool good = true;
            for (const std::byte byte : got.frame.heap) good &= byte == static_cast<std::byte>(letter(got.frame.id));
            for (const Handle& payload : got.frame.payloads) {
                const std::byte* bytes = bus->arena().at(payload);
                for (std::uint64_t i = 0; i < payload.bytes; i += 509)
                    good &= bytes[i] == static_cast<std::byte>(letter(got.frame.id));
            }
            wrong += !good;
            if (got.frame.kind == wire::Kind::call) {
                const wire::Draft reply{.kind = wire::Kind::reply,
                                        .target = 0,
                                        .id = got.frame.id,
                                        .cells = got.frame.cells,
                                        .heap = got.frame.heap,
                                        .payloads = got.frame.payloads};
                (void)got.link->answer(reply);
            }
            completed += got.frame.kind == wire::Kind::reply || got.frame.kind == wire::Kind::error;
            for (const Handle& payload : got.frame.payloads)
                wrong += bus->arena().release(payload.block, payload.generation) != Status::ok;
        }
        bus->attend([this](Link&, Status why) { lost.push_back(why); });
        bus->flush();
        return frames;
    }

    /// That many calls at once, all waited for.
    void call_and_wait(std::uint64_t calls, std::size_t bytes) {
        const std::uint64_t goal = completed + calls;
        for (std::uint64_t id = 1; id <= calls; ++id) wrong += submit(wire::Kind::call, id, bytes) != Status::ok;
        bus->flush();
        const auto deadline = Clock::now() + 20s;
        while (completed < goal && lost.empty() && Clock::now() < deadline) {
            if (sweep() == 0) bus->wait(Clock::now() + 5s);
        }
    }

    std::unique_ptr<Bus> bus;
    std::vector<Status> lost;
    std::uint64_t completed = 0;
    int wrong = 0;
};

/// A service on a thread of its own.
class Service {
public:
    explicit Service(const std::string& name) {
        thread_ = std::thread([this, name] {
            Player player(name, true);
            while (!stop_) {
                if (player.sweep() == 0) player.bus->wait(Clock::now() + 20ms);
            }
        });
    }
    ~Service() {
        stop_ = true;
        thread_.join();
    }

private:
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

}  // namespace isthmus::test
