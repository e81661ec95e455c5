// What a row of a dataset says, whichever of the known forms it is written in: a conversation, or a text.
// The form is found from the keys of the first row, and every other row is held to it.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "data/chat.h"

namespace thimble::data {

enum class RowForm { messages, sharegpt, turns, alpaca, prompt_response, text };
std::string_view name_of(RowForm);

struct Sample {
  std::vector<Message> messages;    // system first, then user and assistant by turns, assistant last
  std::optional<std::string> text;  // instead of messages
};

class RowFormat {
 public:
  RowFormat(const Json& first_row, std::string_view where);
  RowForm form() const { return form_; }
  Sample read(const Json& row, std::string_view where) const;

 private:
  RowForm form_;
  std::string prompt_key_, response_key_;
};

}  // namespace thimble::data
