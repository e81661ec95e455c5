// The forms of LLaMA-Factory (alpaca, sharegpt), OpenAI (messages), ms-swift (conversation; query and response) and plain text.
#include "data/row_format.h"

#include <algorithm>
#include <array>

namespace thimble::data {
namespace {

constexpr std::array prompt_keys{"prompt", "query", "question", "problem", "input"};
constexpr std::array response_keys{"response", "completion", "answer", "solution", "target", "output"};

[[noreturn]] void refuse(std::string_view where, std::string what, std::string expected, std::string found, std::string fix = "") {
  throw Error(Fault::bad_input, {.what = std::move(what),
                                 .where = std::string(where),
                                 .expected = std::move(expected),
                                 .found = std::move(found),
                                 .fix = std::move(fix)});
}

template <class Keys>
std::string first_key(const Json& row, const Keys& keys) {
  for (const char* k : keys)
    if (row.contains(k)) return k;
  return "";
}

std::string keys_of(const Json& row) {
  std::string all;
  for (const auto& [key, value] : row.items()) {
    if (all.size() > 200) return all + ", ...";
    all += (all.empty() ? "" : ", ") + key.substr(0, 40);
  }
  return all.empty() ? "no keys" : "the keys " + all;
}

std::string role_named(const std::string& name, std::string_view key, std::string_view where) {
  if (name == "user" || name == "human") return "user";
  if (name == "assistant" || name == "gpt" || name == "function_call") return "assistant";
  if (name == "system" || name == "developer") return "system";
  if (name == "tool" || name == "observation" || name == "function_response") return "tool";
  refuse(where, fmt::format("an unknown role in '{}'", key), "system, user (human), assistant (gpt) or tool (observation)",
         name.substr(0, 80));
}

// A string, or a list of parts of which all are text.
std::string read_content(const Json& message, const char* key, std::string_view where) {
  const auto it = message.find(key);
  if (it == message.end()) fail_field(where, key, "this key", nullptr);
  if (!it->is_array()) return read_as<std::string>(*it, key, where);
  std::string all;
  for (const Json& part : *it) {
    if (!part.is_object() || value_or<std::string>(part, "type", "text", where) != "text")
      fail_field(where, key, "parts of type text", &part);
    all += require<std::string>(part, "text", where);
  }
  return all;
}

std::vector<Message> read_list(const Json& row, const char* list_key, const char* role_key, const char* content_key,
                               std::string_view where) {
  const auto list = row.find(list_key);
  if (list == row.end()) fail_field(where, list_key, "this key", nullptr);
  if (!list->is_array()) fail_field(where, list_key, "a list of messages", &*list);
  std::vector<Message> messages;
  for (const Json& m : *list) {
    if (!m.is_object()) fail_field(where, list_key, "messages that are objects", &m);
    if (const auto calls = m.find("tool_calls"); calls != m.end() && !calls->is_null() && !calls->empty())
      fail_field(where, "tool_calls", "messages with plain content (tool calls are not read yet)", &*calls);
    Message out{role_named(require<std::string>(m, role_key, where), role_key, where), read_content(m, content_key, where)};
    if (const auto loss = m.find("loss"); loss != m.end() && !loss->is_null())
      out.loss = loss->is_number_integer() ? loss->get<int64_t>() != 0 : read_as<bool>(*loss, "loss", where);
    messages.push_back(std::move(out));
  }
  if (const auto system = value_or<std::string>(row, "system", "", where);
      !system.empty() && (messages.empty() || messages[0].role != "system"))
    messages.insert(messages.begin(), {"system", system});
  return messages;
}

std::vector<Message> read_turns(const Json& row, std::string_view where) {
  const Json& list = row["conversation"];
  if (!list.is_array()) fail_field(where, "conversation", "a list of {human, assistant}", &list);
  std::vector<Message> messages;
  if (auto system = value_or<std::string>(row, "system", "", where); !system.empty()) messages.push_back({"system", std::move(system)});
  for (const Json& turn : list) {
    if (!turn.is_object()) fail_field(where, "conversation", "a list of {human, assistant}", &turn);
    messages.push_back({"user", require<std::string>(turn, "human", where)});
    messages.push_back({"assistant", require<std::string>(turn, "assistant", where)});
  }
  return messages;
}

// What alpaca and prompt/response share: system, history, and the last pair.
std::vector<Message> read_pair(const Json& row, std::string prompt, std::string response, std::string_view where) {
  std::vector<Message> messages;
  if (auto system = value_or<std::string>(row, "system", "", where); !system.empty()) messages.push_back({"system", std::move(system)});
  if (const auto history = row.find("history"); history != row.end() && !history->is_null()) {
    if (!history->is_array()) fail_field(where, "history", "a list of [question, answer]", &*history);
    for (const Json& pair : *history) {
      if (!pair.is_array() || pair.size() != 2) fail_field(where, "history", "a list of [question, answer]", &pair);
      messages.push_back({"user", read_as<std::string>(pair[0], "history", where)});
      messages.push_back({"assistant", read_as<std::string>(pair[1], "history", where)});
    }
  }
  messages.push_back({"user", std::move(prompt)});
  messages.push_back({"assistant", std::move(response)});
  return messages;
}

void check_order(const std::vector<Message>& messages, std::string_view where) {
  if (messages.empty()) refuse(where, "a conversation has no messages", "at least a question and an answer", "an empty list");
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    const std::string before = i ? messages[i - 1].role : "the beginning";
    const bool in_order = role == "system"      ? i == 0
                          : role == "assistant" ? before == "user" || before == "tool"
                          : role == "tool"      ? before == "assistant" || before == "tool"
                                                : before != "user" && before != "tool";
    if (!in_order)
      refuse(where, fmt::format("the roles of a conversation are out of order at message {}", i + 1),
             "system at most once and first, then user and assistant by turns", fmt::format("{} after {}", role, before));
  }
  if (messages.back().role != "assistant")
    refuse(where, "a conversation does not end with an answer", "an assistant's message last", messages.back().role);
}

}  // namespace

std::string_view name_of(RowForm f) {
  switch (f) {
    case RowForm::messages:
      return "messages (role, content)";
    case RowForm::sharegpt:
      return "sharegpt (conversations of from, value)";
    case RowForm::turns:
      return "conversation (human, assistant)";
    case RowForm::alpaca:
      return "alpaca (instruction, input, output)";
    case RowForm::prompt_response:
      return "prompt and response";
    case RowForm::text:
      return "text";
  }
  return "?";
}

RowFormat::RowFormat(const Json& row, std::string_view where) {
  if (!row.is_object()) fail_field(where, "row", "an object", &row);
  for (const char* key : {"chosen", "rejected", "rejected_response", "kto_tag"})
    if (row.contains(key))
      refuse(where, "preference data cannot be used to fine-tune on answers", "questions with one answer each",
             fmt::format("the key '{}'", key));
  prompt_key_ = first_key(row, prompt_keys);
  response_key_ = first_key(row, response_keys);
  if (row.contains("messages")) form_ = RowForm::messages;
  else if (row.contains("conversations")) form_ = RowForm::sharegpt;
  else if (row.contains("conversation")) form_ = RowForm::turns;
  else if (row.contains("instruction")) form_ = RowForm::alpaca;
  else if (!prompt_key_.empty() && !response_key_.empty()) form_ = RowForm::prompt_response;
  else if (row.contains("text")) form_ = RowForm::text;
  else
    refuse(where, "the form of the dataset is not known",
           "messages, conversations, instruction and output, prompt and response (or their synonyms), or text", keys_of(row),
           "rename the keys of the rows");
}

Sample RowFormat::read(const Json& row, std::string_view where) const {
  if (!row.is_object()) fail_field(where, "row", "an object", &row);
  Sample s;
  switch (form_) {
    case RowForm::messages:
      s.messages = read_list(row, "messages", "role", "content", where);
      break;
    case RowForm::sharegpt:
      s.messages = read_list(row, "conversations", "from", "value", where);
      break;
    case RowForm::turns:
      if (!row.contains("conversation")) fail_field(where, "conversation", "this key", nullptr);
      s.messages = read_turns(row, where);
      break;
    case RowForm::alpaca: {
      auto prompt = require<std::string>(row, "instruction", where);
      if (const auto input = value_or<std::string>(row, "input", "", where); !input.empty()) prompt += "\n" + input;
      s.messages = read_pair(row, std::move(prompt), require<std::string>(row, "output", where), where);
      break;
    }
    case RowForm::prompt_response:
      s.messages = read_pair(row, require<std::string>(row, prompt_key_, where), require<std::string>(row, response_key_, where), where);
      break;
    case RowForm::text:
      s.text = require<std::string>(row, "text", where);
      return s;
  }
  check_order(s.messages, where);
  return s;
}

}  // namespace thimble::data
