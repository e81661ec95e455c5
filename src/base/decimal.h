// The number that a text is, all of it, in whatever locale: std::stod follows the locale and throws where a double ends, which here is infinity or
// zero, as IEEE rounds. Nothing where the text is no number; a sign before it, but '-', is the caller's.
#pragma once
#include <optional>
#include <string_view>

namespace thimble {

std::optional<double> read_decimal(std::string_view text);

}  // namespace thimble
