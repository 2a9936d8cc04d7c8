#include "hostile.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static isthmus::fuzz::Victim victim;
    victim.play({reinterpret_cast<const std::byte*>(data), size});
    return 0;
}
