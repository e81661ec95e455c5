// Messages to tokens by the chat template of a model folder, with the exact mask of what a model learns to say.
//
// Who wrote a byte: the renderer keeps it (jinja_text.h). A special token stands only where the template wrote every byte of it, so that
// no word of a user, a tool or an answer can become one, however the template trims or joins it; else a text is tokenised whole, as
// transformers does. Roles that everyone knows (user, assistant, ...) count as the template's words, since templates build tokens of them.
//
// What is learned: what stands in {% generation %}, where a template has it. Else, for each answer: from where the prompt for it would end
// (the template is rendered up to there, with a generation prompt, and compared) to the last special token that closes it whatever follows,
// or, where nothing closes it (GLM), the special token that follows. A template that drops earlier reasoning is learned as it shows it; an answer of
// which it shows nothing (a call of a tool, where it knows no tools) is not learned.
#pragma once
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/jinja_template.h"
#include "data/tokenizer.h"

namespace thimble::data {

struct Message {
  std::string role;  // system, user, assistant or tool
  std::string content;
  std::optional<bool> loss = std::nullopt;  // whether this message is learned, against the rule
  Json tool_calls = nullptr;                // of an assistant, as OpenAI lists them
  Json fields = nullptr;                    // whatever else a template may read: name, tool_call_id, reasoning_content; content of parts
};

struct TokenizedChat {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;  // by token
};

struct ChatOptions {
  bool generation_prompt = false;  // end with the opening of an answer
  bool train_on_prompt = false;    // everything is learned
  bool mask_history = false;       // of the answers only the last is learned
  Json tools = nullptr;            // a list, as OpenAI describes functions
  Json variables = nullptr;        // what else the template reads: {"enable_thinking": false}
};

// A conversation as a template writes it; and what of it is learned: bytes of text, in order, apart.
struct RenderedChat {
  jinja::Text text;
  std::vector<Span> trained;
};

class Chat {
 public:
  // By chat_template.jinja, else by tokenizer_config.json's chat_template; where there is neither, as Chat(tokenizer).
  static std::unique_ptr<Chat> open(const fs::path& folder, const Tokenizer&);
  // chatml where the tokenizer has <|im_start|> and <|im_end|>, else plain: the contents as they stand, each tokenised alone, each answer ended by
  // eos; for base models.
  explicit Chat(const Tokenizer&);
  // special_tokens: an object of bos_token, eos_token and the like, which templates read.
  Chat(const Tokenizer&, std::string_view source, const Json& special_tokens);

  bool is_plain() const { return templates_.empty(); }
  bool shows_tools() const { return !adds_special_; }  // the built-in templates do not; the folder's own may
  std::optional<int32_t> end_of_turn() const { return end_; }  // the token that closes an answer
  // Throws Error (bad_input) where the template refuses the messages. Several threads may render and encode.
  TokenizedChat encode(std::span<const Message>, const ChatOptions&) const;
  RenderedChat render(std::span<const Message>, const ChatOptions&) const;  // not of a plain one
  void set_clock(std::tm now) { now_ = now; }                               // what strftime_now says; the time of construction else

 private:
  Chat(const Tokenizer&, std::vector<std::pair<std::string, jinja::Template>>, const Json& special_tokens, bool adds_special);
  const jinja::Template& chosen(const ChatOptions&) const;
  jinja::Rendering render(std::span<const Message>, const ChatOptions&, bool generation_prompt) const;
  jinja::Rendering try_render(std::span<const Message>, const ChatOptions&, bool generation_prompt) const;  // no text where it is refused
  Span learned_span(const jinja::Text& all, std::span<const Message>, size_t index, const ChatOptions&) const;
  TokenizedChat encode_plain(std::span<const Message>, const ChatOptions&) const;
  std::vector<uint8_t> learned_messages(std::span<const Message>, const ChatOptions&) const;

  const Tokenizer& tokenizer_;
  std::vector<std::pair<std::string, jinja::Template>> templates_;  // by name; "default" first
  jinja::Template::Variables special_tokens_;
  std::string where_;          // the file that the templates are from
  bool adds_special_ = false;  // the tokenizer's own tokens in front, since the template writes none
  std::optional<int32_t> end_;
  std::tm now_{};
};

}  // namespace thimble::data
