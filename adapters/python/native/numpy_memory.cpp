#include "numpy_memory.hpp"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unordered_map>

#include "errors.hpp"

namespace isthmus::python {

namespace {

// As numpy declares them (numpy/ndarraytypes.h, PyDataMem_Handler of version 1), and where its API table has the two functions
// (numpy/__multiarray_api.h); both are part of its stable ABI since 1.22.
struct Handler {
    char name[127];
    std::uint8_t version;
    void* context;
    void* (*malloc)(void*, std::size_t);
    void* (*calloc)(void*, std::size_t, std::size_t);
    void* (*realloc)(void*, void*, std::size_t);
    void (*free)(void*, void*, std::size_t);
};
constexpr std::size_t set_handler_at = 304;
using SetHandler = PyObject*(PyObject*);

struct Block {
    std::shared_ptr<Memory> memory;
    Memory::Hold hold;
};

// numpy lives in the process's main interpreter alone, so there is one of these.
struct Blocks {
    ForkMutex mutex;  // guards what follows
    std::unordered_map<void*, Block> out;
    std::weak_ptr<Memory> newest;
};
Blocks& blocks() {
    static Blocks* const all = new Blocks;  // never destroyed: arrays may be freed after everything else
    return *all;
}

std::shared_ptr<Memory> memory_to_use() {
    if (const auto& own = Memory::of_this_thread()) return own;
    Blocks& all = blocks();
    std::lock_guard lock(all.mutex);
    return all.newest.lock();
}

// --- called by numpy: any thread, with or without the GIL ----------------------------------------------------------

/// Null when there is no bus, or no room in it.
void* allocate_in_bus(std::size_t bytes, bool zeros) noexcept {
    std::shared_ptr<Memory> memory;
    Handle handle;
    try {
        memory = memory_to_use();
        if (!memory || !memory->is_ours()) return nullptr;
        const Arena::Allocation made = memory->allocate(bytes);
        if (made.status != Status::ok) return nullptr;
        handle = made.handle;
        void* data = memory->at(handle);
        {
            Blocks& all = blocks();
            std::lock_guard lock(all.mutex);
            Block& block = all.out[data];
            block.hold.handle = handle;
            if (!memory->hold(block.hold)) {
                all.out.erase(data);
                return nullptr;
            }
            block.memory = std::move(memory);
        }
        // Once it is held: another thread may leave the bus meanwhile, and who has the block next is not written to.
        if (zeros && !made.is_zero) std::memset(data, 0, bytes);
        return data;
    } catch (const std::bad_alloc&) {  // of the accounts
        if (handle.bytes != 0) memory->release(handle);
        return nullptr;
    }
}

void* bus_malloc(void*, std::size_t bytes) {
    if (bytes >= numpy_bytes_from) {
        if (void* data = allocate_in_bus(bytes, false)) return data;
    }
    return std::malloc(bytes);
}

void* bus_calloc(void*, std::size_t count, std::size_t item_bytes) {
    std::size_t bytes = 0;
    if (!__builtin_mul_overflow(count, item_bytes, &bytes) && bytes >= numpy_bytes_from) {
        if (void* data = allocate_in_bus(bytes, true)) return data;
    }
    return std::calloc(count, item_bytes);
}

/// How large a block in the bus is; 0 when the memory is not the bus's.
std::size_t bytes_in_bus(void* data) {
    Blocks& all = blocks();
    std::lock_guard lock(all.mutex);
    const auto at = all.out.find(data);
    return at == all.out.end() ? 0 : at->second.hold.handle.bytes;
}

/// Ends the use of a block. False when the memory is not the bus's.
bool free_in_bus(void* data) {
    Blocks& all = blocks();
    std::unique_lock lock(all.mutex);
    const auto at = all.out.find(data);
    if (at == all.out.end()) return false;
    at->second.memory->drop(at->second.hold);
    const auto last = std::move(at->second.memory);  // unmaps, when it is the last: not under the lock
    all.out.erase(at);
    lock.unlock();
    return true;
}

void bus_free(void*, void* data, std::size_t) {
    if (data != nullptr && !free_in_bus(data)) std::free(data);
}

/// What has grown to be large moves into the bus.
void* bus_realloc(void*, void* data, std::size_t bytes) {
    if (data == nullptr) return bus_malloc(nullptr, bytes);
    const std::size_t in_bus = bytes_in_bus(data);
    if (in_bus == 0) {
        void* moved = bytes >= numpy_bytes_from ? allocate_in_bus(bytes, false) : nullptr;
        if (moved == nullptr) return std::realloc(data, bytes);
        std::memcpy(moved, data, std::min(::malloc_usable_size(data), bytes));
        std::free(data);
        return moved;
    }
    if (bytes <= in_bus && bytes >= in_bus / 2) return data;
    void* moved = bus_malloc(nullptr, bytes);
    if (moved == nullptr) return bytes <= in_bus ? data : nullptr;
    std::memcpy(moved, data, std::min(in_bus, bytes));
    free_in_bus(data);
    return moved;
}

Handler handler{"isthmus", 1, nullptr, bus_malloc, bus_calloc, bus_realloc, bus_free};

/// numpy's PyDataMem_SetHandler; null with an exception set. GIL held.
SetHandler* set_handler() {
    Ref core(PyImport_ImportModule("numpy._core._multiarray_umath"));
    if (!core) {
        PyErr_Clear();
        core = Ref(PyImport_ImportModule("numpy.core._multiarray_umath"));  // before numpy 2
    }
    Ref table(core ? PyObject_GetAttrString(core.get(), "_ARRAY_API") : nullptr);
    void** api = table ? static_cast<void**>(PyCapsule_GetPointer(table.get(), nullptr)) : nullptr;
    return api != nullptr ? reinterpret_cast<SetHandler*>(api[set_handler_at]) : nullptr;
}

}  // namespace

PyObject* use_numpy_memory(bool on) {
    SetHandler* const set = set_handler();
    if (set == nullptr) return nullptr;
    if (!on) return set(nullptr);  // numpy's own
    Ref capsule(PyCapsule_New(&handler, "mem_handler", nullptr));
    return capsule ? set(capsule.get()) : nullptr;
}

PyObject* use_numpy_memory(PyObject*, PyObject* on) {
    const int wanted = PyObject_IsTrue(on);
    return wanted < 0 ? nullptr : use_numpy_memory(wanted == 1);
}

PyObject* restore_numpy_memory(PyObject*, PyObject* handler) {
    SetHandler* const set = set_handler();
    Ref before(set != nullptr ? set(handler) : nullptr);
    if (!before) return nullptr;
    Py_RETURN_NONE;
}

void offer_numpy_memory(const std::shared_ptr<Memory>& memory) {
    Blocks& all = blocks();
    std::lock_guard lock(all.mutex);
    all.newest = memory;
}

}  // namespace isthmus::python
