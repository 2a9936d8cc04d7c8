// What every native function of a connection begins and ends with.
#pragma once

#include <node_api.h>

#include <cstddef>
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

}  // namespace isthmus::node
