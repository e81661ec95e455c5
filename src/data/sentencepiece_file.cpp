// The wire format of protocol buffers needs four rules: a varint, a length and its bytes, four bytes, eight bytes. Lengths are checked
// against what is left; fields that are not known are passed over.
#include "data/sentencepiece_file.h"

#include <cmath>
#include <cstring>

#include "data/implied_merges.h"
#include "data/utf8.h"

namespace thimble::data {
namespace {

constexpr size_t max_pieces = 1 << 19;  // the largest have half as many
constexpr int64_t max_bytes = int64_t{16} << 20;
constexpr std::string_view blank = "▁";

class Fields {
 public:
  Fields(std::string_view message, const std::string& where) : rest_(message), all_(message.size()), where_(where) {}

  bool next() {  // false at the end of the message
    if (rest_.empty()) return false;
    const uint64_t tag = varint();
    number_ = tag >> 3;
    bytes_ = {};
    value_ = 0;
    switch (tag & 7) {
      case 0:
        value_ = varint();
        break;
      case 1:
        bytes_ = take(8);
        break;
      case 2:
        bytes_ = take(varint());
        break;
      case 5:
        bytes_ = take(4);
        break;
      default:
        fail("a field of a known kind", fmt::format("kind {}", tag & 7));
    }
    return true;
  }
  uint64_t number() const { return number_; }
  uint64_t value() const { return value_; }
  bool flag() const { return value_ != 0; }
  int64_t integer() const { return int64_t(int32_t(uint32_t(value_))); }
  std::string_view bytes() const { return bytes_; }
  std::string text() const {
    if (first_invalid_utf8(bytes_) != bytes_.npos) fail("text in UTF-8", "other bytes");
    return std::string(bytes_);
  }
  double score() const {
    float x = 0;
    if (bytes_.size() != sizeof x) fail("a float", fmt::format("{} bytes", bytes_.size()));
    std::memcpy(&x, bytes_.data(), sizeof x);
    return x;
  }

 private:
  [[noreturn]] void fail(std::string expected, std::string found) const {
    throw Error(Fault::bad_input, {.what = "a SentencePiece file is damaged",
                                   .where = fmt::format("{}, {} bytes before the end of a message of {}", where_, rest_.size(), all_),
                                   .expected = std::move(expected),
                                   .found = std::move(found),
                                   .fix = "download tokenizer.model again"});
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (rest_.empty()) fail("a number", "the end");
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      if (shift < 64) value |= uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number of at most ten bytes", "a longer one");
  }
  std::string_view take(uint64_t n) {
    if (n > rest_.size()) fail(fmt::format("{} bytes", n), "fewer");
    const std::string_view taken = rest_.substr(0, size_t(n));
    rest_.remove_prefix(size_t(n));
    return taken;
  }

  std::string_view rest_, bytes_;
  size_t all_;
  const std::string& where_;
  uint64_t number_ = 0, value_ = 0;
};

enum class Kind : int64_t { normal = 1, unknown, control, user_defined };

struct Model {       // with the defaults of the schema
  int64_t type = 1;  // 1 Unigram, 2 BPE
  int64_t unknown = 0, bos = 1, eos = 2;
  std::string bos_piece = "<s>", eos_piece = "</s>";
  bool byte_fallback = false, dummy_prefix = true, fewer_blanks = true, blanks_behind = false;
  std::string charsmap;
};

void read_piece(std::string_view bytes, TokenizerFile& file) {
  std::string text;
  double score = 0;
  auto kind = Kind::normal;
  for (Fields f(bytes, file.where); f.next();) {
    if (f.number() == 1) text = f.text();
    if (f.number() == 2) score = f.score();
    if (f.number() == 3) kind = Kind(f.integer());
  }
  if (file.ids.size() >= max_pieces) fail_field(file.where, "pieces", fmt::format("at most {}", max_pieces), nullptr);
  const auto id = int64_t(file.ids.size());
  if (kind == Kind::unknown || kind == Kind::control || kind == Kind::user_defined) {
    if (file.added.size() >= max_added_tokens) fail_field(file.where, "pieces", fmt::format("at most {} of them special or user-defined", max_added_tokens), nullptr);
    file.added.push_back(read_added_token({{"id", id}, {"content", text}, {"special", kind != Kind::user_defined}}, file.where));
  }
  file.words.add(text);
  file.ids.push_back(id);
  file.scores.push_back(score);
}

void read_trainer(std::string_view bytes, const std::string& where, Model& m) {
  for (Fields f(bytes, where); f.next();) {
    if (f.number() == 3) m.type = f.integer();
    if (f.number() == 24) m.blanks_behind = f.flag();
    if (f.number() == 35) m.byte_fallback = f.flag();
    if (f.number() == 40) m.unknown = f.integer();
    if (f.number() == 41) m.bos = f.integer();
    if (f.number() == 42) m.eos = f.integer();
    if (f.number() == 46) m.bos_piece = f.text();
    if (f.number() == 47) m.eos_piece = f.text();
  }
}

void read_normalizer(std::string_view bytes, const std::string& where, Model& m) {
  for (Fields f(bytes, where); f.next();) {
    if (f.number() == 2) m.charsmap = f.bytes();
    if (f.number() == 3) m.dummy_prefix = f.flag();
    if (f.number() == 4) m.fewer_blanks = f.flag();
  }
}

Json normalizer_of(const Model& m) {
  Json steps = Json::array();
  if (!m.charsmap.empty())
    steps.push_back(
        {{"type", "Precompiled"}, {"precompiled_charsmap", Json::binary(std::vector<uint8_t>(m.charsmap.begin(), m.charsmap.end()))}});
  if (m.fewer_blanks) {
    steps.push_back({{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}});
    steps.push_back({{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", blank}});
  }
  return steps.empty() ? Json() : Json{{"type", "Sequence"}, {"normalizers", steps}};
}

Json decoder_of(const Model& m, bool prefix) {
  if (m.type == 1 && !m.byte_fallback)
    return {{"type", "Metaspace"}, {"replacement", blank}, {"prepend_scheme", prefix ? "always" : "never"}, {"split", true}};
  Json steps = {{{"type", "Replace"}, {"pattern", {{"String", blank}}}, {"content", " "}}, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", steps}};
}

}  // namespace

TokenizerFile parse_sentencepiece(std::string_view bytes, std::string where, Json& config) {
  TokenizerFile file{.where = std::move(where)};
  Model m;
  for (Fields f(bytes, file.where); f.next();) {
    if (f.number() == 1) read_piece(f.bytes(), file);
    if (f.number() == 2) read_trainer(f.bytes(), file.where, m);
    if (f.number() == 3) read_normalizer(f.bytes(), file.where, m);
  }
  const bool unigram = m.type == 1;
  if (!unigram && m.type != 2)
    throw Error(Fault::bad_input, {.what = "this SentencePiece model is not supported",
                                   .where = file.where,
                                   .expected = "model_type 1 (Unigram) or 2 (BPE)",
                                   .found = fmt::format("{}", m.type)});
  if (m.blanks_behind) fail_field(file.where, "treat_whitespace_as_suffix", "false", nullptr);
  const auto count = int64_t(file.ids.size());
  if (m.unknown < 0 || m.unknown >= count) fail_field(file.where, "unk_id", fmt::format("an id below {}", count), nullptr);
  if (config.is_null()) config = Json::object();
  if (config.is_object()) {
    if (m.bos >= 0 && !config.contains("bos_token")) config["bos_token"] = m.bos_piece;
    if (m.eos >= 0 && !config.contains("eos_token")) config["eos_token"] = m.eos_piece;
    if (!config.contains("add_bos_token")) config["add_bos_token"] = !unigram && m.bos >= 0;  // as Llama's and Gemma's classes do
  }
  const bool prefix = value_or(config, "add_prefix_space", m.dummy_prefix, "tokenizer_config.json");
  const bool after_special = unigram || value_or(config, "legacy", false, "tokenizer_config.json");
  file.rest = {{"normalizer", normalizer_of(m)},
               {"pre_tokenizer",
                {{"type", "Metaspace"},
                 {"replacement", blank},
                 {"prepend_scheme", !prefix         ? "never"
                                    : after_special ? "always"
                                                    : "first"},
                 {"split", unigram}}},
               {"decoder", decoder_of(m, prefix)}};
  if (unigram) {
    file.rest["model"] = {{"type", "Unigram"}, {"unk_id", m.unknown}, {"byte_fallback", m.byte_fallback}};
  } else {
    file.scores.clear();
    file.rest["model"] = {
        {"type", "BPE"}, {"unk_token", std::string(file.words[size_t(m.unknown)])}, {"fuse_unk", true}, {"byte_fallback", m.byte_fallback}};
    add_implied_merges(file, FirstHalves::shortest);
  }
  return file;
}

TokenizerFile read_sentencepiece_file(const fs::path& path, Json& config) {
  return parse_sentencepiece(read_text(path, max_bytes), path.string(), config);
}

}  // namespace thimble::data
