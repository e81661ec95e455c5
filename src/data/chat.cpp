// The origin of bytes does double duty: it tells words from markup, and it finds each message in the text, however the template moved it.
#include "data/chat.h"

#include <algorithm>
#include <array>

namespace thimble::data {
namespace {

using jinja::Origin;
using jinja::Text;
using jinja::Value;

constexpr std::string_view chatml =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
constexpr std::array known_roles{"system", "user", "assistant", "tool", "developer", "function", "ipython"};
constexpr std::array token_names{"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token", "additional_special_tokens"};
constexpr int64_t largest_config = 16 << 20;

bool of_template(const Text& t, Span s) {
  for (size_t at = s.begin; at < s.end; ++at)
    if (t.origin(at) != jinja::of_template) return false;
  return true;
}

// From the first to the last byte of this origin; empty (begin == end) where there is none.
Span hull(const Text& t, Origin o) {
  size_t begin = 0, end = t.size();
  while (begin < end && t.origin(begin) != o) ++begin;
  while (end > begin && t.origin(end - 1) != o) --end;
  return {begin, end};
}
size_t bytes_by(const Text& t, Origin o) {
  size_t n = 0;
  for (size_t at = 0; at < t.size(); ++at) n += t.origin(at) == o;
  return n;
}
// From the first to the count-th byte of this origin: a later message may repeat words of an earlier one (gpt-oss: the name of a tool).
Span first_bytes(const Text& t, Origin o, size_t count) {
  Span s = hull(t, o);
  for (size_t at = s.begin; at < s.end && count > 0; ++at)
    if (t.origin(at) == o && --count == 0) s.end = at + 1;
  return s;
}
// Where the template's own words before `at` begin, and where those from `at` end.
size_t markup_before(const Text& t, size_t at) {
  while (at > 0 && t.origin(at - 1) == jinja::of_template) --at;
  return at;
}
size_t markup_after(const Text& t, size_t at) {
  while (at < t.size() && t.origin(at) == jinja::of_template) ++at;
  return at;
}

size_t common(std::string_view a, std::string_view b) { return size_t(std::mismatch(a.begin(), a.begin() + std::ptrdiff_t(std::min(a.size(), b.size())), b.begin()).first - a.begin()); }

// What two texts begin with, in whole words: "<think>" and "<tool_call>" have nothing in common.
size_t common_words(std::string_view a, std::string_view b) {
  size_t n = common(a, b);
  if (n == a.size() || n == b.size()) return n;
  while (n > 0 && std::string_view(" \n\t>]").find(a[n - 1]) == std::string_view::npos) --n;
  return n;
}

Value message_value(const Message& m, Origin origin) {
  jinja::Dict d;
  const bool known = std::find(known_roles.begin(), known_roles.end(), m.role) != known_roles.end();
  d.set("role", Text(m.role, known ? jinja::of_template : origin));
  d.set("content", Text(m.content, origin));
  if (!m.tool_calls.is_null()) d.set("tool_calls", Value::from_json(m.tool_calls, origin));
  if (m.fields.is_object()) {
    for (const auto& [key, value] : m.fields.items()) d.set(Text(key), Value::from_json(value, origin));
    for (const char* key : {"reasoning_content", "thinking", "reasoning"})  // one thing, three names: templates read the first two
      if (const Value* reasoning = d.find(std::string_view(key)); reasoning && !reasoning->is_none()) {
        const Value v = *reasoning;
        for (const char* name : {"reasoning_content", "thinking"})
          if (!d.find(std::string_view(name))) d.set(name, v);
        break;
      }
  }
  return d;
}

size_t bytes_of(const Json& j) { return j.is_null() ? 0 : j.dump().size(); }

std::tm local_time() {
  const std::time_t t = std::time(nullptr);
  std::tm now{};
  localtime_r(&t, &now);
  return now;
}

using Templates = std::vector<std::pair<std::string, jinja::Template>>;

Templates one(std::string_view source) {
  Templates t;
  t.emplace_back("default", jinja::Template(source));
  return t;
}

bool has_chatml(const Tokenizer& t) { return t.token_id("<|im_start|>") && t.token_id("<|im_end|>"); }

// What the template's own errors call "chat template" is this file.
template <class F>
auto naming(const std::string& file, F&& f) {
  try {
    return f();
  } catch (const Error& e) {
    Problem p = e.problem();
    if (constexpr std::string_view anonymous = "chat template"; !file.empty() && p.where.starts_with(anonymous)) p.where = file + p.where.substr(anonymous.size());
    throw Error(e.fault(), std::move(p));
  }
}

// A string, or a list of {name, template}.
Templates read_templates(const Json& spec, const std::string& where) {
  if (spec.is_string()) return one(spec.get<std::string>());
  if (!spec.is_array()) fail_field(where, "chat_template", "a string, or a list of {name, template}", &spec);
  Templates all;
  for (const Json& t : spec) {
    if (!t.is_object()) fail_field(where, "chat_template", "a list of {name, template}", &t);
    all.emplace_back(require<std::string>(t, "name", where), jinja::Template(require<std::string>(t, "template", where)));
    if (all.back().first == "default") std::swap(all.front(), all.back());
  }
  if (all.empty() || all.front().first != "default") fail_field(where, "chat_template", "one of the name default among the templates", &spec);
  return all;
}

}  // namespace

std::unique_ptr<Chat> Chat::open(const fs::path& folder, const Tokenizer& tokenizer) {
  const auto config_file = folder / "tokenizer_config.json", jinja_file = folder / "chat_template.jinja";
  const Json config = fs::exists(config_file) ? parse_json(read_text(config_file, largest_config), config_file.string()) : Json::object();
  if (!config.is_object()) fail_field(config_file.string(), "tokenizer_config.json", "an object", &config);
  const bool is_file = fs::exists(jinja_file);
  const auto spec = config.find("chat_template");
  if (!is_file && (spec == config.end() || spec->is_null())) return std::make_unique<Chat>(tokenizer);
  const std::string where = (is_file ? jinja_file : config_file).string();
  std::unique_ptr<Chat> chat = naming(where, [&] {
    return std::unique_ptr<Chat>(new Chat(tokenizer, is_file ? one(read_text(jinja_file, 2 << 20)) : read_templates(*spec, where), config, false));
  });
  chat->where_ = where;
  return chat;
}

Chat::Chat(const Tokenizer& t) : Chat(t, has_chatml(t) ? one(chatml) : Templates(), nullptr, true) {}
Chat::Chat(const Tokenizer& t, std::string_view source, const Json& special_tokens) : Chat(t, one(source), special_tokens, false) {}

Chat::Chat(const Tokenizer& tokenizer, Templates templates, const Json& special_tokens, bool adds_special)
    : tokenizer_(tokenizer), templates_(std::move(templates)), adds_special_(adds_special), now_(local_time()) {
  if (special_tokens.is_object())
    for (const char* name : token_names) {
      const auto it = special_tokens.find(name);
      if (it == special_tokens.end() || it->is_null()) continue;
      special_tokens_.emplace_back(name, Value::from_json(it->is_object() && it->contains("content") ? (*it)["content"] : *it, jinja::of_template));
    }
  if (is_plain()) {
    end_ = tokenizer.eos();
    return;
  }
  const std::array<Message, 2> probe{{{"user", "a"}, {"assistant", "b"}}};
  const jinja::Rendering r = try_render(probe, {}, false);
  const Span answer = hull(r.text, 2);
  if (answer.begin == answer.end) return;
  const Span learned = learned_span(r.text, probe, 1, {});
  for (const Section& s : tokenizer.special_tokens(r.text.bytes().substr(answer.end, learned.end - answer.end))) end_ = s.token;
}

const jinja::Template& Chat::chosen(const ChatOptions& o) const {
  for (const auto& [name, t] : templates_)
    if (name == "tool_use" && !o.tools.is_null()) return t;
  return templates_.front().second;
}

jinja::Rendering Chat::render(std::span<const Message> messages, const ChatOptions& o, bool generation_prompt) const {
  check(!is_plain(), "a plain chat has no template");
  if (messages.size() > jinja::most_messages) throw Error(Fault::bad_input, {.what = "a conversation is too long", .expected = fmt::format("at most {} messages", jinja::most_messages), .found = fmt::format("{}", messages.size())});
  jinja::List list;
  size_t bytes = bytes_of(o.tools) + bytes_of(o.variables);
  for (size_t i = 0; i < messages.size(); ++i) {
    list.push_back(message_value(messages[i], Origin(i + 1)));
    bytes += list.back().weight();
  }
  auto variables = special_tokens_;
  variables.emplace_back("messages", std::move(list));
  variables.emplace_back("tools", Value::from_json(o.tools, jinja::other_data));
  variables.emplace_back("documents", Value());
  variables.emplace_back("add_generation_prompt", generation_prompt);
  if (o.variables.is_object())
    for (const auto& [name, value] : o.variables.items()) variables.emplace_back(name, Value::from_json(value, jinja::other_data));
  jinja::Limits limits;
  limits.steps += int64_t(8 * bytes);
  limits.text_bytes += 16 * bytes;
  return naming(where_, [&] { return chosen(o).render(variables, limits, now_); });
}

jinja::Rendering Chat::try_render(std::span<const Message> messages, const ChatOptions& o, bool generation_prompt) const {
  try {
    return render(messages, o, generation_prompt);
  } catch (const Error&) {
    return {};
  }
}

// all: the whole conversation. Message `index` is in it.
Span Chat::learned_span(const Text& all, std::span<const Message> messages, size_t index, const ChatOptions& o) const {
  const Origin origin = Origin(index + 1);
  const jinja::Rendering alone = try_render(messages.first(index + 1), o, false);
  const Span words = first_bytes(all, origin, bytes_by(alone.text, origin));
  const std::string_view text = all.bytes();
  const auto tail_of = [&](const Text& t) { return std::string_view(t.bytes()).substr(markup_before(t, t.size())); };
  Span learned = words;
  if (messages[index].role == "assistant") {
    const size_t header = markup_before(all, words.begin);
    const jinja::Rendering prompt = try_render(messages.first(index), o, true);
    if (!prompt.text.empty()) learned.begin = header + common_words(text.substr(header, words.begin - header), tail_of(prompt.text));
  }

  const size_t room = markup_after(all, words.end);
  const auto specials_within = [&](size_t end) { return tokenizer_.special_tokens(text.substr(words.end, end - words.end)); };
  const auto last_special = [&](size_t end) {
    const auto found = specials_within(end);
    return found.empty() ? 0 : words.end + found.back().span.end;
  };
  // What closes the message, whatever comes next: the end of a text that stops here, and of one in which a user goes on.
  std::string_view closing = alone.text.empty() ? "" : tail_of(alone.text);
  std::vector<Message> longer(messages.begin(), messages.begin() + std::ptrdiff_t(index + 1));
  longer.push_back({"user", "a"});
  const jinja::Rendering followed = try_render(longer, o, false);
  if (const Span there = hull(followed.text, origin); there.end > there.begin) {
    const std::string_view after = std::string_view(followed.text.bytes()).substr(there.end, markup_after(followed.text, there.end) - there.end);
    closing = closing.substr(0, common(closing, after));
  }
  const size_t closed = words.end + common(closing, text.substr(words.end, room - words.end));
  if (const size_t end = last_special(closed)) learned.end = end;
  else if (const auto next = specials_within(room); !next.empty()) learned.end = words.end + next.front().span.end;
  else learned.end = closed;
  return learned;
}

std::vector<uint8_t> Chat::learned_messages(std::span<const Message> messages, const ChatOptions& o) const {
  std::vector<uint8_t> learned(messages.size());
  bool later_answer = false;
  for (size_t i = messages.size(); i-- > 0;) {
    const bool answer = messages[i].role == "assistant";
    learned[i] = messages[i].loss.value_or(answer && !(o.mask_history && later_answer));
    later_answer |= answer;
  }
  return learned;
}

RenderedChat Chat::render(std::span<const Message> messages, const ChatOptions& o) const {
  jinja::Rendering r = render(messages, o, o.generation_prompt);
  RenderedChat out{std::move(r.text), {}};
  const auto learned = learned_messages(messages, o);
  if (o.train_on_prompt) {
    out.trained = {{0, out.text.size()}};
  } else if (chosen(o).marks_generation()) {
    for (const Span s : r.generated) {
      size_t at = s.begin;
      while (at < s.end && (out.text.origin(at) == jinja::of_template || out.text.origin(at) > messages.size())) ++at;
      const size_t author = at < s.end ? out.text.origin(at) - 1u : messages.size();
      if (author == messages.size() ? !o.mask_history : learned[author] != 0) out.trained.push_back(s);
    }
    for (size_t i = 0; i < messages.size(); ++i)
      if (messages[i].role != "assistant" && learned[i]) out.trained.push_back(learned_span(out.text, messages, i, o));
    std::sort(out.trained.begin(), out.trained.end(), [](Span a, Span b) { return a.begin < b.begin; });
  } else {
    for (size_t i = 0; i < messages.size(); ++i) {
      const Span words = hull(out.text, Origin(i + 1));
      if (!learned[i] || words.begin == words.end) continue;
      Span s = learned_span(out.text, messages, i, o);
      if (!out.trained.empty()) s.begin = std::max(s.begin, out.trained.back().end);
      if (s.begin < s.end) out.trained.push_back(s);
    }
  }
  return out;
}

TokenizedChat Chat::encode_plain(std::span<const Message> messages, const ChatOptions& o) const {
  TokenizedChat out;
  out.ids = tokenizer_.before();
  out.trained.assign(out.ids.size(), 0);
  const auto learned = learned_messages(messages, o);
  for (size_t i = 0; i < messages.size(); ++i) {
    const auto words = tokenizer_.encode(messages[i].content, false, false);
    out.ids.insert(out.ids.end(), words.begin(), words.end());
    if (messages[i].role == "assistant" && end_) out.ids.push_back(*end_);
    out.trained.resize(out.ids.size(), o.train_on_prompt || learned[i]);
  }
  return out;
}

TokenizedChat Chat::encode(std::span<const Message> messages, const ChatOptions& o) const {
  if (is_plain()) return encode_plain(messages, o);
  const RenderedChat chat = render(messages, o);
  std::vector<size_t> cuts, ids_before;
  for (const Span s : chat.trained) cuts.insert(cuts.end(), {s.begin, s.end});
  TokenizedChat out;
  if (adds_special_) out.ids = tokenizer_.before();
  const size_t front = out.ids.size();
  const auto ids = tokenizer_.encode_parts(chat.text.bytes(), [&](Span s) { return of_template(chat.text, s); }, cuts, ids_before);
  out.ids.insert(out.ids.end(), ids.begin(), ids.end());
  out.trained.assign(out.ids.size(), 0);
  for (size_t i = 0; i < ids_before.size(); i += 2)
    std::fill(out.trained.begin() + std::ptrdiff_t(front + ids_before[i]), out.trained.begin() + std::ptrdiff_t(front + ids_before[i + 1]), 1);
  return out;
}

}  // namespace thimble::data
