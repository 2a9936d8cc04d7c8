// The arena as one SharedArrayBuffer, without V8's headers.
#pragma once

#include <node_api.h>

#include <cstdint>

#include "bus/bus.hpp"

namespace isthmus::node {

/// The isolate's thread. A SharedArrayBuffer over the arena, or over as much of it as this engine can hold; throws a
/// JavaScript error and returns null when it can hold none.
napi_value share_arena(napi_env env, Bus& bus);

}  // namespace isthmus::node
