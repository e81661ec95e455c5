// Written as JSON that any reader of Hugging Face folders takes. `ignore_merges` makes a whole word that is in the vocabulary one token
// (Llama 3 does the same), so no merges are needed: a word the world does not know falls apart into its bytes.
#include "model_files.h"

#include <array>

#include "base/file.h"
#include "base/json.h"

namespace thimble::demo {

namespace {

// <|im_end|> ends documents and answers alike, so that the frozen head of a tuned model already knows it.
constexpr std::array<std::string_view, 4> specials{"<|bos|>", "<|im_start|>", "<|im_end|>", "<|pad|>"};
constexpr int bos = 0, eos = 2, pad = 3;

std::string utf8(uint32_t c) {  // below U+0800
  if (c < 0x80) return {char(c)};
  return {char(0xc0 | (c >> 6)), char(0x80 | (c & 0x3f))};
}

// GPT-2's letters for bytes: printable ones stand for themselves, the others for U+0100 onwards in order.
std::array<std::string, 256> byte_letters() {
  std::array<std::string, 256> letters;
  uint32_t next = 0x100;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    letters[b] = utf8(printable ? b : next++);
  }
  return letters;
}

Json tokenizer(const std::vector<std::string>& words, int& size) {
  Json vocab = Json::object(), added = Json::array();
  int id = 0;
  for (const std::string_view s : specials) {
    vocab[std::string(s)] = id;
    added.push_back({{"id", id++}, {"content", s}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", true}});
  }
  const auto letters = byte_letters();
  for (const std::string& letter : letters) vocab[letter] = id++;
  for (const std::string& word : words) {
    std::string spelled;
    for (const char c : word) spelled += letters[uint8_t(c)];
    if (!vocab.contains(spelled)) vocab[spelled] = id++;
  }
  size = id;
  const Json first = {{"SpecialToken", {{"id", specials[bos]}, {"type_id", 0}}}}, a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json second = {{"SpecialToken", {{"id", specials[bos]}, {"type_id", 1}}}}, b = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  Json bos_ids = Json::object();
  bos_ids[std::string(specials[bos])] = {{"id", specials[bos]}, {"ids", Json::array({bos})}, {"tokens", Json::array({specials[bos]})}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor",
           {{"type", "TemplateProcessing"}, {"single", Json::array({first, a})}, {"pair", Json::array({first, a, second, b})}, {"special_tokens", bos_ids}}},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", true},
            {"vocab", vocab},
            {"merges", Json::array()}}}};
}

Json tokenizer_config(int max_position) {
  return {{"tokenizer_class", "PreTrainedTokenizerFast"},
          {"bos_token", specials[bos]},
          {"eos_token", specials[eos]},
          {"pad_token", specials[pad]},
          {"add_bos_token", true},
          {"add_eos_token", false},
          {"add_prefix_space", true},
          {"clean_up_tokenization_spaces", false},
          {"model_max_length", max_position},
          {"chat_template",
           "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"}};
}

Json config(const ModelShape& s, int vocabulary) {
  return {{"architectures", Json::array({"LlamaForCausalLM"})},
          {"model_type", "llama"},
          {"hidden_size", s.hidden},
          {"intermediate_size", s.ffn},
          {"num_hidden_layers", s.layers},
          {"num_attention_heads", s.heads},
          {"num_key_value_heads", s.kv_heads},
          {"head_dim", s.hidden / s.heads},
          {"vocab_size", vocabulary},
          {"max_position_embeddings", s.max_position},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"rope_scaling", nullptr},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", true},
          {"attention_bias", false},
          {"mlp_bias", false},
          {"initializer_range", 0.02},
          {"bos_token_id", bos},
          {"eos_token_id", eos},
          {"pad_token_id", pad},
          {"torch_dtype", "float32"}};
}

}  // namespace

ModelFiles write_model_files(const fs::path& folder, const std::vector<std::string>& words, const ModelShape& s) {
  ModelFiles made;
  const Json tokens = tokenizer(words, made.vocabulary);
  write_atomically(folder / "tokenizer.json", tokens.dump(1) + "\n");
  write_atomically(folder / "tokenizer_config.json", tokenizer_config(s.max_position).dump(1) + "\n");
  write_atomically(folder / "config.json", config(s, made.vocabulary).dump(1) + "\n");
  const Json generation = {{"bos_token_id", bos}, {"eos_token_id", eos}, {"pad_token_id", pad}};
  write_atomically(folder / "generation_config.json", generation.dump(1) + "\n");
  const int64_t h = s.hidden, kv = int64_t{s.hidden} / s.heads * s.kv_heads;
  made.parameters = int64_t{made.vocabulary} * h + h + int64_t{s.layers} * (2 * h * h + 2 * h * kv + 3 * h * s.ffn + 2 * h);
  return made;
}

}  // namespace thimble::demo
