// What the elements of an array are: numbers that have a dtype on the wire, or what numpy's codes name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "bus/bus.hpp"

namespace isthmus::python {

struct Elements {
    wire::DType dtype = wire::DType::none;
    std::uint32_t foreign = 0;  // bytes of the words whose bytes are in foreign order; 0: none are
    std::string code;           // where there is no dtype
};

/// Of a single number's format in PEP 3118; nullopt for every other format. Null stands for bytes.
std::optional<Elements> elements_of_format(const char* format, std::uint64_t item_bytes);
/// Of one of numpy's codes ("<f8", ">M8[ns]", "|S10"), or of a record's fields as JSON; nullopt where the size is another.
std::optional<Elements> elements_of_code(std::string_view code, std::uint64_t item_bytes);

}  // namespace isthmus::python
