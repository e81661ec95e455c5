// An answer's opening is a segment of its own, as it stands alone before generation: training and serving see the same tokens.
// The header of other messages is joined with their content, as when the whole text is tokenised at once.
#include "data/chat.h"

namespace thimble::data {
namespace {

constexpr const char* opening = "<|im_start|>";
constexpr const char* ending = "<|im_end|>";

void add_chatml(std::vector<Segment>& out, const Message& m, bool learned, bool all) {
  out.push_back({opening, true, all});
  if (m.role == "assistant" || learned) {
    out.push_back({m.role + "\n", false, all});
    out.push_back({m.content, false, learned});
  } else {
    out.push_back({m.role + "\n" + m.content, false, all});
  }
  out.push_back({ending, true, learned});
  out.push_back({"\n", false, all});
}

}  // namespace

Chat::Chat(const Tokenizer& t) : Chat(t, t.token_id(opening) && t.token_id(ending) ? ChatForm::chatml : ChatForm::plain) {}

Chat::Chat(const Tokenizer& t, ChatForm form) : tokenizer_(t), form_(form), end_(form == ChatForm::chatml ? t.token_id(ending) : t.eos()) {
  if (form == ChatForm::chatml && (!t.token_id(opening) || !end_))
    throw Error(Fault::usage, {.what = "the tokenizer lacks the tokens of the chatml template",
                               .expected = fmt::format("{} and {}", opening, ending),
                               .found = "a vocabulary without them",
                               .fix = "use the plain template, or a model that was trained for chat"});
}

std::vector<Segment> Chat::segments(std::span<const Message> messages, const ChatOptions& o) const {
  std::vector<Segment> out;
  for (const int32_t id : tokenizer_.before()) out.push_back({std::string(*tokenizer_.token(id)), true, false});
  size_t last_answer = messages.size();
  for (size_t i = 0; i < messages.size(); ++i)
    if (messages[i].role == "assistant") last_answer = i;
  for (size_t i = 0; i < messages.size(); ++i) {
    const Message& m = messages[i];
    const bool by_rule = m.role == "assistant" && (!o.mask_history || i == last_answer);
    const bool learned = o.train_on_prompt || m.loss.value_or(by_rule);
    if (form_ == ChatForm::chatml) {
      add_chatml(out, m, learned, o.train_on_prompt);
      continue;
    }
    out.push_back({m.content, false, learned});
    if (m.role == "assistant" && end_) out.push_back({std::string(*tokenizer_.token(*end_)), true, learned});
  }
  if (o.generation_prompt && form_ == ChatForm::chatml) {
    out.push_back({opening, true, false});
    out.push_back({"assistant\n", false, false});
  }
  return out;
}

TokenizedChat Chat::tokenize(std::span<const Segment> segments) const {
  TokenizedChat out;
  for (const Segment& s : segments) {
    if (s.is_special_markup) {
      const auto id = tokenizer_.token_id(s.text);
      check(id.has_value(), "markup names a token of the vocabulary");
      out.ids.push_back(*id);
    } else {
      const auto ids = tokenizer_.encode(s.text, false, false);
      out.ids.insert(out.ids.end(), ids.begin(), ids.end());
    }
    out.trained.resize(out.ids.size(), s.trained);
  }
  return out;
}

}  // namespace thimble::data
