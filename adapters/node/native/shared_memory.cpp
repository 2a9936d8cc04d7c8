#include "shared_memory.hpp"

#include <dlfcn.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace isthmus::node {

namespace {

using ExternalShared = napi_status (*)(napi_env, void*, std::size_t, void (*)(void*, void*), void*, napi_value*);

napi_value fail(napi_env env, const std::string& what) {
    napi_throw_error(env, nullptr, ("cannot map the bus's arrays: " + what).c_str());
    return nullptr;
}

/// Any thread, no environment.
void unmap(void* data, void* bytes) { ::munmap(data, reinterpret_cast<std::uintptr_t>(bytes)); }

napi_value external(napi_env env, ExternalShared create, int fd, std::uint64_t offset, std::uint64_t bytes) {
    void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
    if (data == MAP_FAILED) return fail(env, std::strerror(errno));
    ::madvise(data, bytes, MADV_DONTDUMP);
    napi_value buffer;
    if (create(env, data, bytes, unmap, reinterpret_cast<void*>(bytes), &buffer) != napi_ok) {
        ::munmap(data, bytes);
        return fail(env, "the engine refused the memory");
    }
    return buffer;
}

/// The engine's own function for it, which the program that has loaded this addon exports if it has it.
ExternalShared own_function() {
    // Tests have engines that know both ways take the other.
    const char* const way = std::getenv("ISTHMUS_SHARED_ARRAY_BUFFER");
    if (way != nullptr && std::string_view(way) == "overlay") return nullptr;
    return reinterpret_cast<ExternalShared>(::dlsym(RTLD_DEFAULT, "node_api_create_external_sharedarraybuffer"));
}

/// A growable buffer's memory is whole pages that V8 mapped for it alone and will unmap: the segment is mapped over them.
napi_value overlay(napi_env env, int fd, std::uint64_t offset, std::uint64_t bytes) {
    napi_value global, constructor, length, options, buffer, bytes_of, zero, one, view;
    void* data = nullptr;
    if (napi_get_global(env, &global) != napi_ok ||
        napi_get_named_property(env, global, "SharedArrayBuffer", &constructor) != napi_ok ||
        napi_create_double(env, static_cast<double>(bytes), &length) != napi_ok ||
        napi_create_object(env, &options) != napi_ok ||
        napi_set_named_property(env, options, "maxByteLength", length) != napi_ok) {
        return nullptr;
    }
    const napi_value arguments[] = {length, options};
    if (napi_new_instance(env, constructor, 2, arguments, &buffer) != napi_ok ||
        napi_get_named_property(env, global, "Uint8Array", &bytes_of) != napi_ok ||
        napi_create_uint32(env, 0, &zero) != napi_ok || napi_create_uint32(env, 1, &one) != napi_ok) {
        return nullptr;
    }
    const napi_value first_byte[] = {buffer, zero, one};
    if (napi_new_instance(env, bytes_of, 3, first_byte, &view) != napi_ok ||
        napi_get_typedarray_info(env, view, nullptr, nullptr, &data, nullptr, nullptr) != napi_ok) {
        return nullptr;
    }
    if (data == nullptr || reinterpret_cast<std::uintptr_t>(data) % layout::page_bytes != 0)
        return fail(env, "the engine's memory does not begin on a page");
    if (::mmap(data, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(offset)) != data)
        return fail(env, std::strerror(errno));
    ::madvise(data, bytes, MADV_DONTDUMP);
    return buffer;
}

}  // namespace

bool wraps_memory() { return own_function() != nullptr; }

napi_value share_arena(napi_env env, Bus& bus) {
    const std::uint64_t bytes = bus.arena().memory().bytes;
    if (const ExternalShared create = own_function())
        return external(env, create, bus.memory_fd(), bus.arena_offset(), bytes);
    return overlay(env, bus.memory_fd(), bus.arena_offset(), bytes);
}

}  // namespace isthmus::node
