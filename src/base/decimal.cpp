// std::from_chars leaves its result alone where the number is out of range; what it would be is then seen from the exponent, or without one from
// what stands before the point.
#include "base/decimal.h"

#include <charconv>
#include <limits>

namespace thimble {

std::optional<double> read_decimal(std::string_view text) {
  double x = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), x);
  if (end != text.data() + text.size() || error == std::errc::invalid_argument) return {};
  if (error == std::errc()) return x;
  const auto e = text.find_first_of("eE");
  const bool small = e != text.npos ? text[e + 1] == '-' : text.find_first_not_of("-0") == text.find('.');
  x = small ? 0.0 : std::numeric_limits<double>::infinity();
  return text.starts_with('-') ? -x : x;
}

}  // namespace thimble
