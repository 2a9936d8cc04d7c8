// The method Bus.stats: counters, and who has what of the memory, straight from the segment.
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "peer.hpp"

namespace isthmus::python {

namespace {

PyObject* decode_label(const std::string& label) {
    return PyUnicode_DecodeUTF8(label.data(), static_cast<Py_ssize_t>(label.size()), "replace");
}

/// What stats tells, without Python objects.
struct Figures {
    std::shared_ptr<const void> mapping;  // keeps the counters
    const layout::Counters *own, *host;
    std::uint64_t quota;
    Census now;
    struct Member {
        std::string name;
        std::uint32_t pid;
        Census::Share share;
    };
    std::vector<Member> members;
};

PyObject* counters_dict(const layout::Counters* counters) {
    if (counters == nullptr) return Py_NewRef(Py_None);
    const std::pair<const char*, const layout::Word64*> all[] = {
        {"calls", &counters->calls},
        {"posts", &counters->posts},
        {"replies", &counters->replies},
        {"errors", &counters->errors},
        {"frames_sent", &counters->frames_sent},
        {"frames_received", &counters->frames_received},
        {"bytes_sent", &counters->bytes_sent},
        {"bytes_received", &counters->bytes_received},
        {"bytes_copied", &counters->bytes_copied},
        {"full", &counters->full},
        {"wakes", &counters->wakes},
        {"sleeps", &counters->sleeps},
        {"spins", &counters->spins},
        {"batches", &counters->batches},
        {"gil_takes", &counters->gil_takes},
        {"leases_taken", &counters->leases_taken},
        {"leases_released", &counters->leases_released},
        {"leases_refused", &counters->leases_refused},
        {"chunks_taken", &counters->chunks_taken},
        {"chunks_returned", &counters->chunks_returned},
        {"links_opened", &counters->links_opened},
        {"links_lost", &counters->links_lost},
        {"links_corrupt", &counters->links_corrupt},
    };
    Ref dict(PyDict_New());
    for (const auto& [name, counter] : all) {
        Ref number(PyLong_FromUnsignedLongLong(counter->load(std::memory_order_relaxed)));
        if (!dict || !number || PyDict_SetItemString(dict.get(), name, number.get()) < 0) return nullptr;
    }
    const auto add_list = [&dict](const char* name, std::span<const layout::Word64> words) {
        Ref list(PyList_New(static_cast<Py_ssize_t>(words.size())));
        for (std::size_t i = 0; list && i < words.size(); ++i) {
            PyObject* number = PyLong_FromUnsignedLongLong(words[i].load(std::memory_order_relaxed));
            if (number == nullptr) return false;
            PyList_SET_ITEM(list.get(), static_cast<Py_ssize_t>(i), number);
        }
        return list && PyDict_SetItemString(dict.get(), name, list.get()) == 0;
    };
    if (!add_list("batch_sizes", counters->batch_sizes) || !add_list("latencies", counters->latencies)) return nullptr;
    return dict.give();
}

bool put_bytes(PyObject* dict, const char* name, std::uint64_t bytes) {
    Ref number(PyLong_FromUnsignedLongLong(bytes));
    return number && PyDict_SetItemString(dict, name, number.get()) == 0;
}

PyObject* memory_dict(const Figures& figures) {
    const Census& now = figures.now;
    const Ref dict(PyDict_New()), peers(PyList_New(0));
    if (!dict || !peers || PyDict_SetItemString(dict.get(), "peers", peers.get()) < 0) return nullptr;
    const bool put = put_bytes(dict.get(), "bytes", now.bytes) && put_bytes(dict.get(), "quota", figures.quota) &&
                     put_bytes(dict.get(), "free", now.free) && put_bytes(dict.get(), "longest", now.longest) &&
                     put_bytes(dict.get(), "leased", now.leased) && put_bytes(dict.get(), "orphaned", now.orphaned);
    if (!put) return nullptr;
    for (const auto& [name, pid, share] : figures.members) {
        const Ref peer(Py_BuildValue("{s:N,s:I}", "name", decode_label(name), "pid", pid));
        if (!peer || !put_bytes(peer.get(), "owned", share.owned) || !put_bytes(peer.get(), "leased", share.leased) ||
            PyList_Append(peers.get(), peer.get()) < 0)
            return nullptr;
    }
    return Py_NewRef(dict.get());
}

/// Nothing when the bus was left. The gate keeps the segment while it is read; no object is made under it, as the garbage
/// collector may run then, and what it frees wants the gate.
std::optional<Figures> figures_of(Peer& peer) {
    std::lock_guard lock(peer.gate);
    if (!peer.bus) return {};
    Bus& bus = *peer.bus;
    const std::uint32_t host = peer.is_service              ? bus.slot()
                               : peer.dispatcher != nullptr ? peer.dispatcher->service_slot()
                                                            : layout::max_peers;
    Figures figures{bus.mapping(), &bus.counters(), bus.counters_of(host), bus.quota(), bus.census(), {}};
    for (std::uint32_t slot = 0; slot < layout::max_peers; ++slot) {
        if (bus.counters_of(slot) == nullptr) continue;
        figures.members.push_back({bus.label(slot), bus.peer(slot).pid, figures.now.peers[slot]});
    }
    return figures;
}

}  // namespace

PyObject* peers(PyObject* self, PyObject*) {
    struct Member {
        std::string name;
        std::uint32_t pid, service, load;
        std::vector<std::string> exports;
    };
    Peer& peer = peer_of(self);
    if (!is_ours(peer)) return nullptr;
    std::vector<Member> members;
    {
        std::lock_guard lock(peer.gate);  // as in figures_of
        for (std::uint32_t slot = 0; peer.bus && slot < layout::max_peers; ++slot) {
            if (peer.bus->counters_of(slot) == nullptr) continue;
            const layout::Peer& other = peer.bus->peer(slot);
            members.push_back({peer.bus->label(slot), other.pid, other.service,
                               other.load.load(std::memory_order_relaxed), peer.bus->exports_of(slot)});
        }
    }
    const Ref list(PyList_New(0));
    for (const auto& [name, pid, service, load, exports] : members) {
        const Ref names(PyList_New(0));
        for (const std::string& each : exports) {
            if (is_internal(each)) continue;
            const Ref text(decode_label(each));
            if (!names || !text || PyList_Append(names.get(), text.get()) < 0) return nullptr;
        }
        const Ref about(Py_BuildValue("{s:N,s:I,s:i,s:O,s:I}", "name", decode_label(name), "pid", pid, "worker",
                                      static_cast<int>(service) - 1, "exports", names.get(), "load", load));
        if (!list || !about || PyList_Append(list.get(), about.get()) < 0) return nullptr;
    }
    return Py_XNewRef(list.get());
}

PyObject* stats(PyObject* self, PyObject*) {
    Peer& peer = peer_of(self);
    if (!is_ours(peer)) return nullptr;
    const auto figures = figures_of(peer);
    if (!figures) {
        raise(*peer.state, Status::closed, "the bus '" + peer.name + "' is closed");
        return nullptr;
    }
    const Ref own(counters_dict(figures->own));
    const Ref hosts(own ? counters_dict(figures->host) : nullptr);
    const Ref memory(hosts ? memory_dict(*figures) : nullptr);
    if (!memory) return nullptr;
    return Py_BuildValue("{s:O,s:O,s:O}", "self", own.get(), "host", hosts.get(), "memory", memory.get());
}

}  // namespace isthmus::python
