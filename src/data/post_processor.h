// Which tokens stand before and after an encoded text: <s> for Llama, nothing for GPT-2.
// Only the form for one text is read; pairs of texts are for models that we do not run.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace thimble::data {

struct PostProcessor {
  std::vector<int32_t> before, after;
  bool has_template = false;  // the file says what to add, be it nothing

  static PostProcessor read(const Json& spec, std::string_view where);
};

}  // namespace thimble::data
