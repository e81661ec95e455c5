// Base64 (RFC 4648), as tiktoken files and tables inside tokenizer.json hold bytes.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace thimble::data {

std::optional<std::string> from_base64(std::string_view text);  // nothing where it is not base64

}  // namespace thimble::data
