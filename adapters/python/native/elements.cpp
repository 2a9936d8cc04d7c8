#include "elements.hpp"

#include <charconv>

namespace isthmus::python {

namespace {

using wire::DType;

DType number(char kind, std::uint64_t item_bytes) {
    const auto by_size = [item_bytes](DType one, DType two, DType four, DType eight, DType sixteen) {
        switch (item_bytes) {
            case 1: return one;
            case 2: return two;
            case 4: return four;
            case 8: return eight;
            case 16: return sixteen;
            default: return DType::none;
        }
    };
    constexpr DType none = DType::none;
    switch (kind) {
        case 'b': return by_size(DType::boolean, none, none, none, none);
        case 'i': return by_size(DType::int8, DType::int16, DType::int32, DType::int64, none);
        case 'u': return by_size(DType::uint8, DType::uint16, DType::uint32, DType::uint64, none);
        case 'f': return by_size(none, DType::float16, DType::float32, DType::float64, none);
        case 'c': return by_size(none, none, none, DType::complex64, DType::complex128);
        default: return none;
    }
}

std::optional<Elements> numbers(char kind, std::uint64_t item_bytes, bool is_foreign) {
    const DType dtype = number(kind, item_bytes);
    if (dtype == DType::none) return std::nullopt;
    const auto word = static_cast<std::uint32_t>(kind == 'c' ? item_bytes / 2 : item_bytes);
    return Elements{dtype, is_foreign && word > 1 ? word : 0, {}};
}

/// numpy's letter for a number's in PEP 3118; 0 when it has none.
char kind_of_letter(std::string_view letters) {
    if (letters == "Zf" || letters == "Zd") return 'c';
    if (letters.size() != 1) return 0;
    constexpr std::string_view signed_letters = "bhilqn", unsigned_letters = "cBHILQN", real_letters = "efd";
    const char letter = letters.front();
    if (letter == '?') return 'b';
    if (signed_letters.find(letter) != std::string_view::npos) return 'i';
    if (unsigned_letters.find(letter) != std::string_view::npos) return 'u';
    return real_letters.find(letter) != std::string_view::npos ? 'f' : char{0};
}

}  // namespace

std::optional<Elements> elements_of_format(const char* format, std::uint64_t item_bytes) {
    std::string_view letters = format == nullptr ? "B" : format;
    bool is_foreign = false;
    if (!letters.empty() && std::string_view("@=<>!").find(letters.front()) != std::string_view::npos) {
        is_foreign = letters.front() == '>' || letters.front() == '!';
        letters.remove_prefix(1);
    }
    return numbers(kind_of_letter(letters), item_bytes, is_foreign);
}

std::optional<Elements> elements_of_code(std::string_view code, std::uint64_t item_bytes) {
    if (code.starts_with('[')) return Elements{DType::none, 0, std::string(code)};
    std::uint64_t count = 0;
    if (code.size() < 3 || std::from_chars(code.data() + 2, code.data() + code.size(), count).ec != std::errc())
        return std::nullopt;
    const bool is_foreign = code[0] == '>';
    const char kind = code[1];
    constexpr std::uint64_t character = 4;
    if (item_bytes != (kind == 'U' ? count * character : count) || item_bytes == 0) return std::nullopt;
    if (std::string_view("mMSUV").find(kind) == std::string_view::npos) return numbers(kind, item_bytes, is_foreign);
    Elements named{DType::none, 0, std::string(code)};
    if (is_foreign) {
        named.code[0] = '<';
        named.foreign = static_cast<std::uint32_t>(kind == 'U' ? character : item_bytes);
    }
    return named;
}

}  // namespace isthmus::python
