// Messages to tokens, with the exact mask of what a model learns to say: an assistant's words and the token that ends them.
// Markup and words are separate segments, tokenised apart, so that no word of a user can become markup.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace thimble::data {

struct Message {
  std::string role;  // system, user, assistant or tool
  std::string content;
  std::optional<bool> loss = std::nullopt;  // whether this message is learned, against the rule
  Json tool_calls = nullptr;                // of an assistant, as OpenAI lists them
};

struct Segment {
  std::string text;
  bool is_special_markup = false;  // `text` is the name of one token
  bool trained = false;
};

struct TokenizedChat {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;  // by token
};

// chatml: <|im_start|>role\ncontent<|im_end|>\n. plain: the contents as they stand, each answer ended by eos; for base models.
enum class ChatForm { chatml, plain };

struct ChatOptions {
  bool generation_prompt = false;  // end with the opening of an answer
  bool train_on_prompt = false;    // everything is learned
  bool mask_history = false;       // of the answers only the last is learned
};

class Chat {
 public:
  explicit Chat(const Tokenizer&);   // chatml where the tokenizer has both of its tokens, else plain
  Chat(const Tokenizer&, ChatForm);  // throws Error (usage) where chatml's tokens are absent

  ChatForm form() const { return form_; }
  std::optional<int32_t> end_of_turn() const { return end_; }  // the token at which generation stops
  std::vector<Segment> segments(std::span<const Message>, const ChatOptions&) const;
  TokenizedChat tokenize(std::span<const Segment>) const;
  TokenizedChat encode(std::span<const Message> messages, const ChatOptions& options) const {
    return tokenize(segments(messages, options));
  }

 private:
  const Tokenizer& tokenizer_;
  ChatForm form_;
  std::optional<int32_t> end_;
};

}  // namespace thimble::data
