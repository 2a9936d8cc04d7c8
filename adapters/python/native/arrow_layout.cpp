#include <charconv>
#include <cstring>

#include "arrow.hpp"

namespace isthmus::python {

namespace {

using Is = ArrowLayout::Is;
using wire::DType;

ArrowLayout fixed(DType dtype, std::uint64_t bits) { return {Is::fixed, dtype, bits}; }

/// The numbers of a format, like the 10 and the 2 in `d:10,2`; nullopt when they are none.
std::optional<std::int64_t> number_after(std::string_view format, std::size_t at) {
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(format.data() + at, format.data() + format.size(), number);
    if (error != std::errc() || end != format.data() + format.size() || number < 0 || number > INT32_MAX) return {};
    return number;
}

std::optional<ArrowLayout> primitive(char letter) {
    switch (letter) {
        case 'n': return ArrowLayout{};
        case 'b': return fixed(DType::uint8, 1);
        case 'c': return fixed(DType::int8, 8);
        case 'C': return fixed(DType::uint8, 8);
        case 's': return fixed(DType::int16, 16);
        case 'S': return fixed(DType::uint16, 16);
        case 'i': return fixed(DType::int32, 32);
        case 'I': return fixed(DType::uint32, 32);
        case 'l': return fixed(DType::int64, 64);
        case 'L': return fixed(DType::uint64, 64);
        case 'e': return fixed(DType::uint16, 16);
        case 'f': return fixed(DType::float32, 32);
        case 'g': return fixed(DType::float64, 64);
        case 'z':
        case 'u': return ArrowLayout{Is::variable};
        case 'Z':
        case 'U': return ArrowLayout{Is::variable, DType::uint8, 0, true};
        default: return {};
    }
}

/// Dates, times, instants, durations, intervals.
std::optional<ArrowLayout> temporal(std::string_view format) {
    if (format.size() < 3) return {};
    const char unit = format[2];
    const bool is_unit = unit != '\0' && std::strchr("smun", unit) != nullptr;
    switch (format[1]) {
        case 'd':
            if (format == "tdD") return fixed(DType::int32, 32);
            return format == "tdm" ? std::optional(fixed(DType::int64, 64)) : std::nullopt;
        case 't':
            if (!is_unit || format.size() != 3) return {};
            return unit == 's' || unit == 'm' ? fixed(DType::int32, 32) : fixed(DType::int64, 64);
        case 's':
            if (!is_unit || format.size() < 4 || format[3] != ':') return {};
            return fixed(DType::int64, 64);
        case 'D': return is_unit && format.size() == 3 ? std::optional(fixed(DType::int64, 64)) : std::nullopt;
        case 'i':
            if (format == "tiM") return fixed(DType::int32, 32);
            if (format == "tiD") return fixed(DType::int32, 64);
            return format == "tin" ? std::optional(fixed(DType::int32, 128)) : std::nullopt;
        default: return {};
    }
}

std::optional<ArrowLayout> decimal(std::string_view format) {
    const auto first = format.find(','), last = format.rfind(',');
    if (first == std::string_view::npos) return {};
    if (first == last) return fixed(DType::uint32, 128);
    const auto bits = number_after(format, last + 1);
    if (!bits || (*bits != 32 && *bits != 64 && *bits != 128 && *bits != 256)) return {};
    return fixed(DType::uint32, static_cast<std::uint64_t>(*bits));
}

std::optional<ArrowLayout> nested(std::string_view format) {
    if (format == "+s") return ArrowLayout{Is::structure};
    if (format == "+l" || format == "+m") return ArrowLayout{Is::list};
    if (format == "+L") return ArrowLayout{Is::list, DType::uint8, 0, true};
    if (!format.starts_with("+w:")) return {};
    const auto items = number_after(format, 3);
    return items ? std::optional(ArrowLayout{Is::fixed_list, DType::uint8, 0, false, *items}) : std::nullopt;
}

}  // namespace

std::optional<ArrowLayout> layout_of(std::string_view format) {
    if (format.size() == 1) return primitive(format[0]);
    if (format == "vz" || format == "vu") return ArrowLayout{Is::views, DType::uint8, 128};
    if (format.starts_with('t')) return temporal(format);
    if (format.starts_with("d:")) return decimal(format);
    if (format.starts_with('+')) return nested(format);
    if (!format.starts_with("w:")) return {};
    const auto bytes = number_after(format, 2);
    return bytes ? std::optional(fixed(DType::uint8, static_cast<std::uint64_t>(*bytes) * 8)) : std::nullopt;
}

std::int64_t offset_at(const void* offsets, const ArrowLayout& layout, std::int64_t index) {
    const auto* at = static_cast<const std::byte*>(offsets) + static_cast<std::uint64_t>(index) * layout.offset_bytes();
    if (layout.has_long_offsets) {
        std::int64_t offset;
        std::memcpy(&offset, at, sizeof offset);
        return offset;
    }
    std::int32_t offset;
    std::memcpy(&offset, at, sizeof offset);
    return offset;
}

}  // namespace isthmus::python
