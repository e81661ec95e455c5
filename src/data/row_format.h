// What a row of a dataset says, whichever of the known forms it is written in: a conversation, or a text.
// The form is said by dataset_info.json or found from the keys of the first row, and every row is held to it.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "data/chat.h"

namespace thimble::data {

enum class RowForm { messages, sharegpt, turns, alpaca, prompt_response, text };
std::string_view name_of(RowForm);

// Which key of a row says what. An empty name: rows of this dataset do not say it.
struct Layout {
  RowForm form = RowForm::text;
  std::string prompt{}, query{}, response{}, history{};           // of alpaca, prompt_response; `prompt` is the text of text
  std::string messages{}, role{}, content{};                      // of messages, sharegpt; `messages` of turns
  std::string system = "system", tools = "tools";
  std::map<std::string, std::string> roles{};                     // a dataset's own words for user, assistant, tool, function and system

  Json to_json() const;
};
Layout find_layout(const Json& first_row, std::string_view where);

struct Sample {
  std::vector<Message> messages;    // system first, then user and assistant by turns, assistant last
  Json tools = nullptr;             // that the conversation may call, as OpenAI lists them
  std::optional<std::string> text;  // instead of messages
  std::string unusable;             // why nothing can be learned from a row that is whole; else empty
};

class RowFormat {
 public:
  explicit RowFormat(Layout layout) : layout_(std::move(layout)) {}
  RowForm form() const { return layout_.form; }
  // Throws Error (bad_input) naming `where` on a row of another form.
  Sample read(const Json& row, std::string_view where) const;

 private:
  std::string role_named(const std::string& name, std::string_view where) const;
  std::vector<Message> read_list(const Json& row, std::string_view where) const;
  std::vector<Message> read_turns(const Json& row, std::string_view where) const;
  std::vector<Message> read_pair(const Json& row, std::string_view where) const;
  std::string system_of(const Json& row, std::string_view where) const;

  Layout layout_;
};

}  // namespace thimble::data
