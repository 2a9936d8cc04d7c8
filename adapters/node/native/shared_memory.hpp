// The arena as one SharedArrayBuffer, without V8's headers.
#pragma once

#include <node_api.h>

#include <cstdint>

#include "bus/bus.hpp"

namespace isthmus::node {

/// Any thread. Whether this engine makes SharedArrayBuffers of memory that is given to it. Where it does not, a buffer of its own
/// is used, which only an engine may have that unmaps its memory at the buffer's end: V8 does, JavaScriptCore uses it again.
bool wraps_memory();

/// The isolate's thread. A SharedArrayBuffer over the arena, or over as much of it as this engine can hold; throws a
/// JavaScript error and returns null when it can hold none.
napi_value share_arena(napi_env env, Bus& bus);

}  // namespace isthmus::node
