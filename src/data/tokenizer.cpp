// The stages in their order: added tokens, normalizer, pre-tokenizer, model, post-processor; and the decoder.
#include "data/tokenizer.h"

#include <algorithm>
#include <span>

#include "base/log.h"
#include "data/byte_level.h"
#include "data/sentencepiece_file.h"
#include "data/tiktoken_file.h"
#include "data/utf8.h"

namespace thimble::data {
namespace {

const Json nothing;

const Json& part(const Json& file, const char* key) {
  const auto it = file.find(key);
  return it == file.end() ? nothing : *it;
}

std::vector<int32_t> special_ids(const std::vector<AddedToken>& added, const TokenizerFile& file) {
  const Json& model = part(file.rest, "model");
  const auto unknown = model.is_object() ? value_or<std::string>(model, "unk_token", "", file.where) : "";
  std::vector<int32_t> ids;
  for (const AddedToken& t : added)
    if (t.special && t.content != unknown) ids.push_back(t.id);  // the unknown token does come from text
  return ids;
}

Vocabulary vocabulary_of(const std::vector<AddedToken>& added, const Vocabulary& base, const std::string& where) {
  Strings words;
  std::vector<int64_t> ids;
  const int64_t limit = 2 * (base.size() + int64_t(added.size())) + (1 << 16);
  for (const AddedToken& t : added) {
    const auto as_word = base.find(t.content);
    const auto as_id = base.token(t.id);
    if ((as_word && *as_word != t.id) || (as_id && *as_id != t.content) || t.id >= limit)
      throw Error(Fault::bad_input, {.what = "an added token contradicts the vocabulary",
                                     .where = where,
                                     .expected = as_word ? fmt::format("id {}", *as_word)
                                                 : as_id ? fmt::format("the content \"{}\"", *as_id)
                                                         : fmt::format("an id below {}", limit),
                                     .found = fmt::format("\"{}\" with id {}", t.content, t.id)});
    words.add(t.content);
    ids.push_back(t.id);
  }
  return Vocabulary(std::move(words), ids, where, limit);
}

std::variant<Bpe, Unigram> read_model(TokenizerFile& file, const std::vector<int32_t>& special) {
  const Json& model = part(file.rest, "model");
  if (!model.is_object()) fail_field(file.where, "model", "an object", &model);
  const bool scored = !file.scores.empty();  // files before 2020 do not say the type
  const auto type = value_or<std::string>(model, "type", scored ? "Unigram" : "BPE", file.where);
  if (type != "BPE" && type != "Unigram")
    throw Error(Fault::bad_input, {.what = "this tokenizer's model is not supported",
                                   .where = file.where,
                                   .expected = "a model of type BPE or Unigram",
                                   .found = type});
  if (scored != (type == "Unigram"))
    fail_field(file.where, "model.vocab", type == "Unigram" ? "pairs of a token and its score" : "ids by token", nullptr);
  if (scored) return Unigram(file, special);
  return Bpe(file, special);
}

// The published name of a tiktoken file is that of SentencePiece's, or the model's own: qwen.tiktoken.
fs::path tiktoken_in(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".tiktoken" || entry.path().filename() == "tiktoken.model") return entry.path();
  return {};
}

TokenizerFile read_any_file(const fs::path& folder, Json& config, const Json& model) {
  if (fs::exists(folder / "tokenizer.json")) return read_tokenizer_file(folder / "tokenizer.json");
  const fs::path sentencepiece = folder / "tokenizer.model";
  const bool has_model = fs::exists(sentencepiece);
  const fs::path tiktoken = has_model && is_tiktoken(FilePieces(sentencepiece).next()) ? sentencepiece
                            : has_model || !fs::is_directory(folder)                   ? fs::path()
                                                                                       : tiktoken_in(folder);
  if (!tiktoken.empty()) {
    const auto family = model.is_object() ? value_or<std::string>(model, "model_type", "", "config.json") : "";
    return read_tiktoken_file(tiktoken, config, family);
  }
  if (has_model) return read_sentencepiece_file(sentencepiece, config);
  throw Error(Fault::bad_input, {.what = "the model folder has no tokenizer",
                                 .where = folder.string(),
                                 .expected = "tokenizer.json, or tokenizer.model or a tiktoken file",
                                 .found = "no such file",
                                 .fix = "download tokenizer.json from where the model comes from"});
}

Json read_json(const fs::path& path) { return fs::exists(path) ? parse_json(read_text(path, 16 << 20), path.string()) : Json(); }

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::open(const fs::path& folder) {
  Json config = read_json(folder / "tokenizer_config.json");
  const Json model = read_json(folder / "config.json");
  auto tokenizer = std::make_unique<Tokenizer>(read_any_file(folder, config, model), config);
  const auto from_model = [&](const char* key) -> std::optional<int32_t> {
    if (!model.is_object() || !model.contains(key)) return std::nullopt;
    const Json& v = model[key].is_array() && !model[key].empty() ? model[key][0] : model[key];
    if (!v.is_number_integer() || !tokenizer->token(int32_t(std::clamp<int64_t>(v.get<int64_t>(), -1, INT32_MAX)))) return std::nullopt;
    return int32_t(v.get<int64_t>());
  };
  if (model.is_object() && model.contains("vocab_size") && model["vocab_size"].is_number_integer() && model["vocab_size"].get<int64_t>() > 0)
    tokenizer->limit_to(model["vocab_size"].get<int64_t>());
  if (!tokenizer->bos_ && !(config.is_object() && config.contains("bos_token"))) tokenizer->bos_ = from_model("bos_token_id");
  if (!tokenizer->eos_ && !(config.is_object() && config.contains("eos_token"))) tokenizer->eos_ = from_model("eos_token_id");
  return tokenizer;
}

Tokenizer::Tokenizer(TokenizerFile file, const Json& config)
    : where_(file.where),
      added_(distinct(std::move(file.added), where_)),
      model_(read_model(file, special_ids(added_, file))),
      normalizer_(Normalizer::read(part(file.rest, "normalizer"), where_)),
      pre_tokenizer_(PreTokenizer::read(part(file.rest, "pre_tokenizer"), where_)),
      post_processor_(PostProcessor::read(part(file.rest, "post_processor"), where_)),
      decoder_(Decoder::read(part(file.rest, "decoder"), where_)),
      raw_(added_, false, normalizer_),
      normalized_(added_, true, normalizer_),
      added_vocabulary_(vocabulary_of(added_, vocabulary(), where_)) {
  size_ = std::max(vocabulary().size(), added_vocabulary_.size());
  special_.resize(size_t(size_));
  for (const AddedToken& t : added_) special_[size_t(t.id)] = t.special;
  if (config.is_object()) read_config(config);
  check_ids();
}

// bos and eos are named by their text: "<s>", or an object with `content` in older files.
std::optional<int32_t> Tokenizer::named_token(const Json& config, const char* key) const {
  const Json& v = part(config, key);
  if (v.is_null()) return std::nullopt;
  const auto text =
      v.is_object() ? require<std::string>(v, "content", "tokenizer_config.json") : read_as<std::string>(v, key, "tokenizer_config.json");
  const auto id = token_id(text);
  if (!id) log_warning("tokenizer_config.json: {} is \"{}\", which is not in the vocabulary; ignored", key, text);
  return id;
}

// tokenizer.json says itself what is added. Llama's own class, and files without a template, follow the add_*_token flags.
void Tokenizer::read_config(const Json& config) {
  bos_ = named_token(config, "bos_token");
  eos_ = named_token(config, "eos_token");
  const auto kind = value_or<std::string>(config, "tokenizer_class", "", "tokenizer_config.json");
  const bool by_flags =
      !post_processor_.has_template || kind.starts_with("Llama") || kind.starts_with("CodeLlama") || kind.starts_with("Gemma");
  const auto follow = [&](const char* key, std::vector<int32_t>& ids, std::optional<int32_t> id) {
    if (!by_flags || part(config, key).is_null()) return;
    ids.clear();
    if (value_or(config, key, false, "tokenizer_config.json") && id) ids.push_back(*id);
  };
  follow("add_bos_token", post_processor_.before, bos_);
  follow("add_eos_token", post_processor_.after, eos_);
}

void Tokenizer::check_ids() const {
  for (const auto* ids : {&post_processor_.before, &post_processor_.after})
    for (const int32_t id : *ids)
      if (!token(id))
        throw Error(Fault::bad_input, {.what = "the post-processor adds a token that does not exist",
                                       .where = where_,
                                       .expected = fmt::format("ids below {}", size_),
                                       .found = fmt::format("{}", id)});
}

void Tokenizer::limit_to(int64_t rows) {
  for (int64_t id = rows; id < size_; ++id)
    if (token(int32_t(id)) && !added_vocabulary_.token(id))
      throw Error(Fault::bad_input, {.what = "the tokenizer has more tokens than the model has rows",
                                     .where = where_,
                                     .expected = fmt::format("ids below {}, config.json's vocab_size", rows),
                                     .found = fmt::format("\"{}\" with id {}", token(int32_t(id))->substr(0, 80), id),
                                     .fix = "check that tokenizer and config.json are of one model"});
  rows_ = rows;
}

void Tokenizer::check_rows(std::span<const int32_t> ids) const {
  if (rows_ >= size_) return;
  for (const int32_t id : ids)
    if (id >= rows_)
      throw Error(Fault::bad_input, {.what = "a text holds a token that the model has no row for",
                                     .where = where_,
                                     .expected = fmt::format("ids below {}, config.json's vocab_size", rows_),
                                     .found = fmt::format("\"{}\" with id {}", token(id).value_or("").substr(0, 80), id),
                                     .fix = "take the token out of the text"});
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const auto id = added_vocabulary_.find(token);
  return id ? id : vocabulary().find(token);
}

std::optional<std::string_view> Tokenizer::token(int32_t id) const {
  const auto added = added_vocabulary_.token(id);
  return added ? added : vocabulary().token(id);
}

std::unique_ptr<Tokenizer::Scratch> Tokenizer::ScratchPool::take() {
  const std::lock_guard lock(mutex);
  if (free.empty()) return std::make_unique<Scratch>();
  auto scratch = std::move(free.back());
  free.pop_back();
  return scratch;
}

void Tokenizer::ScratchPool::give(std::unique_ptr<Scratch> scratch) {
  const std::lock_guard lock(mutex);
  free.push_back(std::move(scratch));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special, bool parse_special) const {
  if (const size_t bad = first_invalid_utf8(text); bad != text.npos)
    throw Error(Fault::bad_input, {.what = "a text is not valid UTF-8",
                                   .where = fmt::format("byte {}", bad),
                                   .expected = "UTF-8",
                                   .found = fmt::format("byte 0x{:02X}", static_cast<unsigned char>(text[bad])),
                                   .fix = "convert the text: iconv -f ENCODING -t UTF-8"});
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (add_special) ids = before();
  auto scratch = pool_.take();
  for (const Section& s : raw_.cut(text, parse_special)) {
    if (s.token >= 0) ids.push_back(s.token);
    else encode_text(text.substr(s.span.begin, s.span.end - s.span.begin), s.span.begin == 0, parse_special, ids, *scratch);
  }
  pool_.give(std::move(scratch));
  if (add_special) ids.insert(ids.end(), after().begin(), after().end());
  check_rows(ids);
  return ids;
}

std::vector<int32_t> Tokenizer::encode_parts(std::string_view text, const SpecialRule& may_be_special, std::span<const size_t> cuts,
                                             std::vector<size_t>& ids_before) const {
  std::vector<int32_t> ids;
  Scratch scratch;
  size_t cut = 0;
  for (const Section& s : raw_.cut(text, true, &may_be_special)) {
    const size_t before = ids.size();
    const auto section = [&](size_t end, std::vector<int32_t>& out) {
      encode_text(text.substr(s.span.begin, end - s.span.begin), s.span.begin == 0, may_be_special({s.span.begin, end}), out, scratch);
    };
    if (s.token >= 0) ids.push_back(s.token);
    else section(s.span.end, ids);
    for (; cut < cuts.size() && cuts[cut] < s.span.end; ++cut) {
      size_t same = 0;
      if (s.token < 0 && cuts[cut] > s.span.begin) {  // tokens that the text up to the cut has too
        std::vector<int32_t> part;
        section(cuts[cut], part);
        while (same < part.size() && before + same < ids.size() && part[same] == ids[before + same]) ++same;
      }
      ids_before.push_back(before + same);
    }
  }
  ids_before.resize(cuts.size(), ids.size());
  check_rows(ids);
  return ids;
}

std::vector<Section> Tokenizer::special_tokens(std::string_view text) const {
  auto sections = raw_.cut(text, true);
  std::erase_if(sections, [&](const Section& s) { return !is_special(s.token); });
  return sections;
}

void Tokenizer::encode_text(std::string_view text, bool at_start, bool parse_special, std::vector<int32_t>& ids, Scratch& scratch) const {
  const std::string normal = normalizer_.empty() ? std::string() : normalizer_.apply(text);
  const std::string_view now = normalizer_.empty() ? text : std::string_view(normal);
  for (const Section& s : normalized_.cut(now, parse_special)) {
    if (s.token >= 0) {
      ids.push_back(s.token);
      continue;
    }
    const std::string_view between = now.substr(s.span.begin, s.span.end - s.span.begin);
    pre_tokenizer_.apply(between, at_start && s.span.begin == 0, scratch.pieces, scratch.cut);
    for (size_t i = 0; i < scratch.pieces.count(); ++i) encode_piece(scratch.pieces[i], ids, scratch);
  }
}

void Tokenizer::encode_piece(std::string_view piece, std::vector<int32_t>& ids, Scratch& scratch) const {
  const auto encode_by = [&](const auto& model, auto& model_scratch) {
    while (!piece.empty()) {
      const std::string_view word = piece.substr(0, model.word_length(piece));
      piece.remove_prefix(word.size());
      if (scratch.words.find(word, ids)) continue;
      const size_t begin = ids.size();
      if (pre_tokenizer_.byte_level_is_left()) model.encode(to_byte_level(word), ids, model_scratch);
      else model.encode(word, ids, model_scratch);
      scratch.words.keep(word, std::span(ids).subspan(begin));
    }
  };
  if (const auto* bpe = std::get_if<Bpe>(&model_)) encode_by(*bpe, scratch.bpe);
  else encode_by(std::get<Unigram>(model_), scratch.unigram);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids) {
    const auto t = token(id);
    if (t && !(skip_special && is_special(id))) tokens.emplace_back(*t);
  }
  return decoder_.apply(std::move(tokens));
}

}  // namespace thimble::data
