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

std::string string_or_none(const Json& row, const std::string& key, std::string_view where) {
  return key.empty() ? "" : value_or<std::string>(row, key, "", where);
}

// A string, or a list of parts of which all are text; null beside calls of tools.
std::string read_content(const Json& message, const std::string& key, bool may_be_null, std::string_view where) {
  const auto it = message.find(key);
  if (may_be_null && (it == message.end() || it->is_null())) return "";
  if (it == message.end()) fail_field(where, key, "this key", nullptr);
  if (!it->is_array()) return read_as<std::string>(*it, key, where);
  std::string all;
  for (const Json& part : *it) {
    if (!part.is_object() || value_or<std::string>(part, "type", "text", where) != "text") fail_field(where, key, "parts of type text", &part);
    all += require<std::string>(part, "text", where);
  }
  return all;
}

// A list as it stands, or as JSON in a string, as tables hold it.
Json read_json_list(const Json& row, const std::string& key, std::string_view expected, std::string_view where) {
  const auto it = row.find(key);
  if (it == row.end()) fail_field(where, key, "this key", nullptr);
  Json list = it->is_string() ? parse_json(it->get_ref<const std::string&>(), fmt::format("{}, '{}'", where, key)) : *it;
  if (!list.is_array()) fail_field(where, key, expected, &*it);
  return list;
}

// LLaMA-Factory writes a call as JSON in the words of a turn: {"name": ..., "arguments": {...}}, or a list of such.
Json read_calls(const std::string& words, std::string_view where) {
  const Json said = parse_json(words, fmt::format("{}, a call of a function", where));
  Json calls = Json::array();
  for (const Json& call : said.is_array() ? said : Json::array({said})) {
    if (!call.is_object() || !call.contains("name")) fail_field(where, "function_call", "an object with name and arguments", &call);
    calls.push_back({{"type", "function"}, {"function", {{"name", call["name"]}, {"arguments", call.value("arguments", Json::object())}}}});
  }
  return calls;
}

// Why a conversation cannot be learned from; empty where it can.
std::string disorder(const std::vector<Message>& messages) {
  if (messages.empty()) return "a conversation has no messages";
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    const std::string before = i ? messages[i - 1].role : "the beginning";
    const bool in_order = role == "system"      ? i == 0
                          : role == "assistant" ? before == "user" || before == "tool"
                          : role == "tool"      ? before == "assistant" || before == "tool"
                                                : before != "user" && before != "tool";
    if (!in_order) return fmt::format("the roles of a conversation are out of order ({} after {})", role, before);
  }
  return messages.back().role == "assistant" ? "" : "a conversation does not end with an answer";
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

Json Layout::to_json() const {
  return {{"form", name_of(form)}, {"prompt", prompt}, {"query", query}, {"response", response}, {"history", history}, {"messages", messages},
          {"role", role}, {"content", content}, {"system", system}, {"tools", tools}, {"roles", roles}};
}

Layout find_layout(const Json& row, std::string_view where) {
  if (!row.is_object()) fail_field(where, "row", "an object", &row);
  for (const char* key : {"chosen", "rejected", "rejected_response", "kto_tag"})
    if (row.contains(key))
      refuse(where, "preference data cannot be used to fine-tune on answers", "questions with one answer each", fmt::format("the key '{}'", key));
  const std::string prompt = first_key(row, prompt_keys), response = first_key(row, response_keys);
  if (row.contains("messages")) return {.form = RowForm::messages, .messages = "messages", .role = "role", .content = "content"};
  if (row.contains("conversations")) {
    // Most have from and value; some write OpenAI's words under this name.
    const Json& list = row["conversations"];
    const bool roles = list.is_array() && !list.empty() && list[0].is_object() && list[0].contains("role");
    return {.form = RowForm::sharegpt, .messages = "conversations", .role = roles ? "role" : "from", .content = roles ? "content" : "value"};
  }
  if (row.contains("conversation")) return {.form = RowForm::turns, .messages = "conversation"};
  if (row.contains("instruction")) return {.form = RowForm::alpaca, .prompt = "instruction", .query = "input", .response = "output", .history = "history"};
  if (!prompt.empty() && !response.empty()) return {.form = RowForm::prompt_response, .prompt = prompt, .response = response, .history = "history"};
  if (row.contains("text")) return {.form = RowForm::text, .prompt = "text"};
  refuse(where, "the form of the dataset is not known",
         "messages, conversations, instruction and output, prompt and response (or their synonyms), or text", keys_of(row),
         "rename the keys of the rows, or describe them in dataset_info.json");
}

std::string RowFormat::role_named(const std::string& name, std::string_view where) const {
  const auto own = layout_.roles.find(name);
  const std::string& role = own == layout_.roles.end() ? name : own->second;
  if (role == "user" || role == "human") return "user";
  if (role == "assistant" || role == "gpt" || role == "model") return "assistant";
  if (role == "function" || role == "function_call") return "function";
  if (role == "system" || role == "developer") return "system";
  if (role == "tool" || role == "observation" || role == "function_response") return "tool";
  refuse(where, fmt::format("an unknown role in '{}'", layout_.role), "system, user (human), assistant (gpt), function_call or tool (observation)",
         name.substr(0, 80));
}

std::string RowFormat::system_of(const Json& row, std::string_view where) const { return string_or_none(row, layout_.system, where); }

std::vector<Message> RowFormat::read_list(const Json& row, std::string_view where) const {
  std::vector<Message> messages;
  for (const Json& m : read_json_list(row, layout_.messages, "a list of messages", where)) {
    if (!m.is_object()) fail_field(where, layout_.messages, "messages that are objects", &m);
    const auto calls = m.find("tool_calls"), loss = m.find("loss");
    const bool has_calls = calls != m.end() && !calls->is_null() && !calls->empty();
    if (has_calls && !calls->is_array()) fail_field(where, "tool_calls", "a list of calls", &*calls);
    Message out{role_named(require<std::string>(m, layout_.role, where), where), read_content(m, layout_.content, has_calls, where)};
    if (has_calls) out.tool_calls = *calls;
    if (out.role == "function") {
      out.tool_calls = read_calls(out.content, where);
      out.content.clear();
      out.role = "assistant";
    }
    if (loss != m.end() && !loss->is_null()) out.loss = loss->is_number_integer() ? loss->get<int64_t>() != 0 : read_as<bool>(*loss, "loss", where);
    messages.push_back(std::move(out));
  }
  if (auto system = system_of(row, where); !system.empty() && (messages.empty() || messages[0].role != "system"))
    messages.insert(messages.begin(), {"system", std::move(system)});
  return messages;
}

std::vector<Message> RowFormat::read_turns(const Json& row, std::string_view where) const {
  constexpr std::string_view expected = "a list of {human, assistant}";
  std::vector<Message> messages;
  if (auto system = system_of(row, where); !system.empty()) messages.push_back({"system", std::move(system)});
  for (const Json& turn : read_json_list(row, layout_.messages, expected, where)) {
    if (!turn.is_object()) fail_field(where, layout_.messages, expected, &turn);
    messages.push_back({"user", require<std::string>(turn, "human", where)});
    messages.push_back({"assistant", require<std::string>(turn, "assistant", where)});
  }
  return messages;
}

// What alpaca and prompt/response share: system, history, and the last pair.
std::vector<Message> RowFormat::read_pair(const Json& row, std::string_view where) const {
  std::vector<Message> messages;
  if (auto system = system_of(row, where); !system.empty()) messages.push_back({"system", std::move(system)});
  if (const auto history = layout_.history.empty() ? row.end() : row.find(layout_.history); history != row.end() && !history->is_null() && *history != "") {
    for (const Json& pair : read_json_list(row, layout_.history, "a list of [question, answer]", where)) {
      if (!pair.is_array() || pair.size() != 2) fail_field(where, layout_.history, "a list of [question, answer]", &pair);
      messages.push_back({"user", read_as<std::string>(pair[0], layout_.history, where)});
      messages.push_back({"assistant", read_as<std::string>(pair[1], layout_.history, where)});
    }
  }
  auto prompt = require<std::string>(row, layout_.prompt, where);
  if (const auto query = string_or_none(row, layout_.query, where); !query.empty()) prompt += (prompt.empty() ? "" : "\n") + query;
  messages.push_back({"user", std::move(prompt)});
  messages.push_back({"assistant", require<std::string>(row, layout_.response, where)});
  return messages;
}

Sample RowFormat::read(const Json& row, std::string_view where) const {
  if (!row.is_object()) fail_field(where, "row", "an object", &row);
  Sample s;
  switch (layout_.form) {
    case RowForm::messages:
    case RowForm::sharegpt:
      s.messages = read_list(row, where);
      break;
    case RowForm::turns:
      s.messages = read_turns(row, where);
      break;
    case RowForm::alpaca:
    case RowForm::prompt_response:
      s.messages = read_pair(row, where);
      break;
    case RowForm::text:
      s.text = require<std::string>(row, layout_.prompt, where);
      return s;
  }
  if (const auto tools = layout_.tools.empty() ? row.end() : row.find(layout_.tools); tools != row.end() && !tools->is_null() && *tools != "" && !tools->empty())
    s.tools = read_json_list(row, layout_.tools, "a list of tools", where);
  s.unusable = disorder(s.messages);
  return s;
}

}  // namespace thimble::data
