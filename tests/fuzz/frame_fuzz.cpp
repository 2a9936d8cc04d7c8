#include "hostile.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    isthmus::fuzz::play_frame({reinterpret_cast<const std::byte*>(data), size});
    return 0;
}
