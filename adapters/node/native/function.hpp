// What every native function of a connection begins and ends with.
#pragma once

#include <node_api.h>

#include <cstddef>
#include <cstdint>
#include <exception>

#include "connection.hpp"

namespace isthmus::node {

inline Connection& of(napi_env env, napi_callback_info info, std::size_t* count = nullptr,
                      napi_value* arguments = nullptr) {
    void* self = nullptr;
    napi_get_cb_info(env, info, count, arguments, nullptr, &self);
    return *static_cast<Connection*>(self);
}

/// What the core throws must not leave a native function.
template <class Work>
auto guarded(napi_env env, Work&& work) -> decltype(work()) {
    try {
        return work();
    } catch (const std::exception& error) {
        napi_throw_error(env, nullptr, error.what());
        return decltype(work())();
    }
}

inline napi_value number(napi_env env, double value) {
    napi_value result = nullptr;
    napi_create_double(env, value, &result);
    return result;
}

/// An ArrayBuffer, made as a program makes it: napi_create_arraybuffer ends the process where memory is short. Null then, and a
/// RangeError is pending.
inline napi_value make_buffer(napi_env env, std::uint64_t bytes, void** data) {
    const napi_value length = number(env, static_cast<double>(bytes));
    napi_value global = nullptr, type = nullptr, buffer = nullptr;
    std::size_t made = 0;
    if (napi_get_global(env, &global) != napi_ok ||
        napi_get_named_property(env, global, "ArrayBuffer", &type) != napi_ok ||
        napi_new_instance(env, type, 1, &length, &buffer) != napi_ok ||
        napi_get_arraybuffer_info(env, buffer, data, &made) != napi_ok || made < bytes)
        return nullptr;
    return buffer;
}

}  // namespace isthmus::node
