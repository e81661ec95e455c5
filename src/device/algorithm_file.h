// The algorithms of matrix products that were found fastest, kept between runs: a second run takes the same, so that it computes the same
// numbers and starts at once. An algorithm is 64 bytes that mean something only to the library that made them, on such a card.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace thimble {

using Algorithm = std::array<uint64_t, 8>;
using Algorithms = std::map<std::vector<int64_t>, Algorithm>;  // by what the choice depends on

// `maker`: the card and the library. Nothing where there is no file; nothing, and a warning, where it is damaged or of another maker.
Algorithms read_algorithms(const fs::path&, std::string_view maker);
// Written aside and renamed; makes the folder. Where that fails, a warning.
void write_algorithms(const fs::path&, std::string_view maker, const Algorithms&) noexcept;

}  // namespace thimble
