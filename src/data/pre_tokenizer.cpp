// Each step turns pieces into pieces. What Isolated, MergedWithPrevious, ... mean is what the reference tokenizers do.
#include "data/pre_tokenizer.h"

#include <algorithm>

#include "data/byte_level.h"
#include "data/utf8.h"

namespace thimble::data {
namespace {

struct Part {
  Span span;
  bool match;
};

// The text from end to end, as matches and what lies between them.
std::vector<Part> parts_of(std::string_view text, const std::vector<Span>& matches, bool invert) {
  std::vector<Part> parts;
  size_t done = 0;
  for (const Span m : matches) {
    if (m.begin > done) parts.push_back({{done, m.begin}, invert});
    parts.push_back({m, !invert});
    done = m.end;
  }
  if (done < text.size()) parts.push_back({{done, text.size()}, invert});
  return parts;
}

void add_merged_with_next(Pieces& out, std::string_view text, const std::vector<Part>& parts) {
  std::vector<Span> joined;
  bool previous = false;
  for (auto p = parts.rbegin(); p != parts.rend(); ++p) {
    if (p->match && !previous && !joined.empty()) joined.back().begin = p->span.begin;
    else joined.push_back(p->span);
    previous = p->match;
  }
  for (auto s = joined.rbegin(); s != joined.rend(); ++s) out.add(text.substr(s->begin, s->end - s->begin));
}

void add_cut(Pieces& out, std::string_view text, const std::vector<Part>& parts, Behavior behavior) {
  if (behavior == Behavior::merged_with_next) return add_merged_with_next(out, text, parts);
  std::vector<Span> joined;
  bool previous = false;
  for (const Part& p : parts) {
    const bool glue =
        (behavior == Behavior::merged_with_previous && p.match && !previous) || (behavior == Behavior::contiguous && p.match == previous);
    if (behavior == Behavior::removed && p.match) continue;
    if (glue && !joined.empty()) joined.back().end = p.span.end;
    else joined.push_back(p.span);
    previous = p.match;
  }
  if (joined.empty() || joined.front().begin > 0) out.at_start = out.at_start && out.count() > 0;
  for (const Span s : joined) out.add(text.substr(s.begin, s.end - s.begin));
}

std::vector<Span> characters_in(std::string_view text, bool (*is_in)(char32_t)) {
  std::vector<Span> found;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    if (is_in(c.value)) found.push_back({at, at + size_t(c.bytes)});
    at += size_t(c.bytes);
  }
  return found;
}

void run(const cut::Split& s, std::string_view piece, bool, Pieces& out) {
  add_cut(out, piece, parts_of(piece, s.pattern.find_all(piece), s.invert), s.behavior);
}

void run(const cut::Characters& s, std::string_view piece, bool, Pieces& out) {
  add_cut(out, piece, parts_of(piece, characters_in(piece, s.is_in), false), s.behavior);
}

void run(const cut::Words&, std::string_view piece, bool, Pieces& out) {
  std::vector<Part> parts;
  int last = 0;
  for (size_t at = 0; at < piece.size();) {
    const CodePoint c = code_point_at(piece, at);
    const int kind = is_whitespace(c.value) ? 1 : is_word(c.value) ? 2 : 3;
    if (kind == last) parts.back().span.end = at + size_t(c.bytes);
    else parts.push_back({{at, at + size_t(c.bytes)}, kind == 1});
    last = kind;
    at += size_t(c.bytes);
  }
  add_cut(out, piece, parts, Behavior::removed);
}

void run(const cut::ByteLevel& s, std::string_view piece, bool, Pieces& out) {
  const std::string spaced = s.add_prefix_space && !piece.starts_with(' ') ? " " + std::string(piece) : std::string(piece);
  if (!s.use_regex) return out.add(to_byte_level(spaced));
  for (const Part& p : parts_of(spaced, s.words.find_all(spaced), false))
    out.add(to_byte_level(std::string_view(spaced).substr(p.span.begin, p.span.end - p.span.begin)));
}

void run(const cut::Metaspace& s, std::string_view piece, bool is_first, Pieces& out) {
  std::string text = Pattern::literal(" ").replace_all(piece, s.replacement);
  const bool wanted = s.prepend == cut::Metaspace::Prepend::always || (s.prepend == cut::Metaspace::Prepend::first && is_first);
  if (wanted && !text.starts_with(s.replacement)) text.insert(0, s.replacement);
  if (!s.split) return out.add(text);
  add_cut(out, text, parts_of(text, Pattern::literal(s.replacement).find_all(text), false), Behavior::merged_with_next);
}

Behavior read_behavior(const Json& spec, std::string_view where, std::string_view otherwise) {
  const auto name = value_or<std::string>(spec, "behavior", std::string(otherwise), where);
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  fail_field(where, "behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", &spec["behavior"]);
}

cut::Metaspace read_metaspace(const Json& spec, std::string_view where) {
  using Prepend = cut::Metaspace::Prepend;
  const bool legacy = value_or(spec, "add_prefix_space", true, where);  // the key of files before prepend_scheme
  const auto scheme = value_or<std::string>(spec, "prepend_scheme", legacy ? "always" : "never", where);
  if (scheme != "always" && scheme != "first" && scheme != "never")
    fail_field(where, "prepend_scheme", "always, first or never", &spec["prepend_scheme"]);
  const auto prepend = scheme == "always" ? Prepend::always : scheme == "first" ? Prepend::first : Prepend::never;
  auto replacement = value_or<std::string>(spec, "replacement", "▁", where);
  if (replacement.empty()) fail_field(where, "replacement", "a character", &spec["replacement"]);
  return {std::move(replacement), prepend, value_or(spec, "split", true, where)};
}

}  // namespace

PreTokenizer PreTokenizer::read(const Json& spec, std::string_view where) {
  PreTokenizer p;
  if (!spec.is_null()) p.add(spec, where);
  return p;
}

void PreTokenizer::add(const Json& spec, std::string_view where) {
  if (!spec.is_object()) fail_field(where, "pre_tokenizer", "an object", &spec);
  const auto type = require<std::string>(spec, "type", where);
  if (type == "Sequence") {
    const auto list = spec.find("pretokenizers");
    if (list == spec.end() || !list->is_array()) fail_field(where, "pretokenizers", "a list", list == spec.end() ? nullptr : &*list);
    for (const Json& s : *list) add(s, where);
  } else if (type == "ByteLevel") {
    steps_.emplace_back(
        cut::ByteLevel{value_or(spec, "add_prefix_space", true, where), value_or(spec, "use_regex", true, where),
                       Pattern::regex(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", where)});
  } else if (type == "Split") {
    if (!spec.contains("pattern")) fail_field(where, "pattern", "this key", nullptr);
    steps_.emplace_back(
        cut::Split{Pattern::read(spec["pattern"], where), read_behavior(spec, where, "Isolated"), value_or(spec, "invert", false, where)});
  } else if (type == "Metaspace") {
    steps_.emplace_back(read_metaspace(spec, where));
  } else if (type == "Digits") {
    const bool each = value_or(spec, "individual_digits", false, where);
    steps_.emplace_back(cut::Characters{is_numeric, each ? Behavior::isolated : Behavior::contiguous});
  } else if (type == "Punctuation") {
    steps_.emplace_back(cut::Characters{is_punctuation, read_behavior(spec, where, "Isolated")});
  } else if (type == "WhitespaceSplit") {
    steps_.emplace_back(cut::Characters{is_whitespace, Behavior::removed});
  } else if (type == "Whitespace") {
    steps_.emplace_back(cut::Words{});
  } else {
    fail_field(where, "pre_tokenizer.type", "Sequence, ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace or WhitespaceSplit",
               &spec["type"]);
  }
}

Pieces PreTokenizer::apply(std::string_view text, bool at_start) const {
  Pieces now;
  now.at_start = at_start;
  now.add(text);
  for (const Step& step : steps_) {
    Pieces next;
    next.at_start = now.at_start;
    next.text.reserve(now.text.size() + now.text.size() / 8);
    for (size_t i = 0; i < now.count(); ++i) std::visit([&](const auto& s) { run(s, now[i], now.at_start && i == 0, next); }, step);
    now = std::move(next);
  }
  return now;
}

}  // namespace thimble::data
