// Names and objects that this isolate offers or holds: what is on its board, what others lend it.
#include <cstring>

#include "function.hpp"

namespace isthmus::node {

namespace {

std::string text_of(napi_env env, napi_value value) {
    std::size_t bytes = 0;
    if (napi_get_value_string_utf8(env, value, nullptr, 0, &bytes) != napi_ok) return {};
    std::string text(bytes, '\0');
    napi_get_value_string_utf8(env, value, text.data(), bytes + 1, &bytes);
    return text;
}

}  // namespace

/// intern(name): a number for the name of an export.
napi_value Connection::intern(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    std::size_t count = 1;
    napi_value text = nullptr;
    Connection& self = of(env, info, &count, &text);
    return guarded(env, [&]() -> napi_value {
        std::size_t bytes = 0;
        if (napi_get_value_string_utf8(env, text, nullptr, 0, &bytes) != napi_ok) {
            napi_throw_type_error(env, nullptr, "the name of an export is a string");
            return nullptr;
        }
        self.names_.push_back({{.name = text_of(env, text), .epoch = 0, .providers = {}}, {}});
        return number(env, static_cast<double>(self.names_.size() - 1));
    });
}

/// stick(key): the staged call goes where all calls with this key go.
napi_value Connection::stick(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    std::size_t count = 1;
    napi_value key = nullptr;
    Connection& self = of(env, info, &count, &key);
    return guarded(env, [&]() -> napi_value {
        self.word(Word::sticky) = static_cast<std::int32_t>(Bus::sticky_key(text_of(env, key)));
        return nullptr;
    });
}

/// publish(names): shows them on this peer's board.
napi_value Connection::publish(napi_env env, napi_callback_info info) {  // the isolate's thread; the arena's mutex
    std::size_t count = 1;
    napi_value list = nullptr;
    Connection& self = of(env, info, &count, &list);
    return guarded(env, [&]() -> napi_value {
        std::uint32_t length = 0;
        napi_get_array_length(env, list, &length);
        std::vector<std::string> names;
        for (std::uint32_t i = 0; i < length; ++i) {
            napi_value name = nullptr;
            if (napi_get_element(env, list, i, &name) == napi_ok) names.push_back(text_of(env, name));
        }
        self.outcome(self.bus_ ? self.bus_->publish_exports(names) : Status::closed);
        return nullptr;
    });
}

/// The proxy of another peer's object is gone: gives its `number` uses back, with the next flush.
void Connection::give_back(napi_env) {  // the isolate's thread; no lock
    if (!bus_) return;
    const auto id = static_cast<std::uint64_t>(real(Double::object));
    bus_->give_back(index(Word::peer), index(Word::peerGeneration), id, index(Word::number));
}

/// The ids of own objects to which nobody refers any more, or undefined.
napi_value Connection::take_free(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    Connection& self = of(env, info);
    return guarded(env, [&]() -> napi_value {
        if (!self.bus_ || !self.bus_->has_free()) return nullptr;
        const auto ids = self.bus_->take_free();
        napi_value list = nullptr;
        napi_create_array_with_length(env, ids.size(), &list);
        for (std::uint32_t i = 0; i < ids.size(); ++i)
            napi_set_element(env, list, i, number(env, static_cast<double>(ids[i])));
        return list;
    });
}

/// label(slot, generation): what the peer calls itself; undefined when another one has its slot.
napi_value Connection::label(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    std::size_t count = 2;
    napi_value place[2] = {};
    Connection& self = of(env, info, &count, place);
    return guarded(env, [&]() -> napi_value {
        std::uint32_t slot = 0, generation = 0;
        napi_value text = nullptr;
        if (!self.bus_ || napi_get_value_uint32(env, place[0], &slot) != napi_ok || slot >= layout::max_peers ||
            napi_get_value_uint32(env, place[1], &generation) != napi_ok)
            return nullptr;
        const std::string label = self.bus_->label(slot);
        const auto life = self.bus_->peer(slot).life.load(std::memory_order_acquire);
        if (layout::generation_of(life) != generation) return nullptr;
        napi_create_string_utf8(env, label.data(), label.size(), &text);
        return text;
    });
}

/// fate(number): what has become of the peer of a lost call, which told this number.
napi_value Connection::fate(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    std::size_t count = 1;
    napi_value which = nullptr;
    Connection& self = of(env, info, &count, &which);
    return guarded(env, [&]() -> napi_value {
        std::uint32_t number = 0;
        napi_value text = nullptr;
        if (napi_get_value_uint32(env, which, &number) != napi_ok || number >= self.fates_.size()) return nullptr;
        const std::string& fate = self.fates_[number];
        napi_create_string_utf8(env, fate.data(), fate.size(), &text);
        return text;
    });
}

/// exports(): the names that others show, each as often as it is exported; undefined when the bus was left.
napi_value Connection::exports(napi_env env, napi_callback_info info) {  // the isolate's thread; no lock
    Connection& self = of(env, info);
    return guarded(env, [&]() -> napi_value {
        if (!self.bus_) return nullptr;
        napi_value names = nullptr;
        std::uint32_t listed = 0;
        napi_create_array(env, &names);
        for (std::uint32_t slot = 0; slot < layout::max_peers; ++slot) {
            if (slot == self.bus_->slot()) continue;
            for (const std::string& name : self.bus_->exports_of(slot)) {
                napi_value text = nullptr;
                napi_create_string_utf8(env, name.data(), name.size(), &text);
                napi_set_element(env, names, listed++, text);
            }
        }
        return names;
    });
}

}  // namespace isthmus::node
