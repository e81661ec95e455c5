// Each step turns pieces into pieces. What Isolated, MergedWithPrevious, ... mean is what the reference tokenizers do.
#include "data/pre_tokenizer.h"

#include <algorithm>
#include <type_traits>

#include "data/byte_level.h"
#include "data/utf8.h"

namespace thimble::data {
namespace {

constexpr std::string_view gpt2_words = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

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

std::vector<Span> merged_with_next(const std::vector<Part>& parts) {
  std::vector<Span> joined;
  bool previous = false;
  for (auto p = parts.rbegin(); p != parts.rend(); ++p) {
    if (p->match && !previous && !joined.empty()) joined.back().begin = p->span.begin;
    else joined.push_back(p->span);
    previous = p->match;
  }
  std::reverse(joined.begin(), joined.end());
  return joined;
}

std::vector<Span> joined_as(Behavior behavior, const std::vector<Part>& parts) {
  if (behavior == Behavior::merged_with_next) return merged_with_next(parts);
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
  return joined;
}

// What a step works on and leaves behind.
struct Work {
  std::string_view piece;
  size_t offset = 0;      // of the piece in the text
  bool is_first = false;  // it begins where the whole input begins
  PreTokenizer::Scratch& scratch;

  void add(Span s) {  // places in the piece
    if (s.end > s.begin) scratch.spans.push_back({offset + s.begin, offset + s.end});
  }
  void write(std::string_view text) {
    if (text.empty()) return;
    scratch.spare += text;
    scratch.spans.push_back({scratch.spare.size() - text.size(), scratch.spare.size()});
  }
};

void cut_at(const std::vector<Span>& matches, Behavior behavior, bool invert, Work& w) {
  if (behavior != Behavior::isolated) {
    for (const Span s : joined_as(behavior, parts_of(w.piece, matches, invert))) w.add(s);
    return;
  }
  size_t done = 0;  // matches and what lies between them are pieces alike
  for (const Span m : matches) {
    w.add({done, m.begin});
    w.add(m);
    done = m.end;
  }
  w.add({done, w.piece.size()});
}

void run(const cut::Split& s, Work& w) {
  s.pattern.find_all(w.piece, w.scratch.matches);
  cut_at(w.scratch.matches, s.behavior, s.invert, w);
}

void run(const cut::Characters& s, Work& w) {
  auto& found = w.scratch.matches;
  found.clear();
  for (size_t at = 0; at < w.piece.size();) {
    const CodePoint c = code_point_at(w.piece, at);
    if (s.is_in(c.value)) found.push_back({at, at + size_t(c.bytes)});
    at += size_t(c.bytes);
  }
  cut_at(found, s.behavior, false, w);
}

void run(const cut::Words&, Work& w) {
  std::vector<Part> parts;
  int last = 0;
  for (size_t at = 0; at < w.piece.size();) {
    const CodePoint c = code_point_at(w.piece, at);
    const int kind = is_whitespace(c.value) ? 1 : is_word(c.value) ? 2 : 3;
    if (kind == last) parts.back().span.end = at + size_t(c.bytes);
    else parts.push_back({{at, at + size_t(c.bytes)}, kind == 1});
    last = kind;
    at += size_t(c.bytes);
  }
  for (const Span s : joined_as(Behavior::removed, parts)) w.add(s);
}

void run(const rewrite::Metaspace& s, Work& w) {
  using Prepend = rewrite::Metaspace::Prepend;
  std::string text = Pattern::literal(" ").replace_all(w.piece, s.replacement);
  const bool wanted = s.prepend == Prepend::always || (s.prepend == Prepend::first && w.is_first);
  if (wanted && !text.starts_with(s.replacement)) text.insert(0, s.replacement);
  w.write(text);
}

void run(const rewrite::PrefixSpace&, Work& w) { w.write(w.piece.starts_with(' ') ? std::string(w.piece) : " " + std::string(w.piece)); }

void run(const rewrite::ByteLevel&, Work& w) { w.write(to_byte_level(w.piece)); }

template <class Step>
constexpr bool rewrites =
    std::is_same_v<Step, rewrite::Metaspace> || std::is_same_v<Step, rewrite::PrefixSpace> || std::is_same_v<Step, rewrite::ByteLevel>;

Behavior read_behavior(const Json& spec, std::string_view where, std::string_view otherwise) {
  const auto name = value_or<std::string>(spec, "behavior", std::string(otherwise), where);
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  fail_field(where, "behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", &spec["behavior"]);
}

rewrite::Metaspace read_metaspace(const Json& spec, std::string_view where) {
  using Prepend = rewrite::Metaspace::Prepend;
  const bool legacy = value_or(spec, "add_prefix_space", true, where);  // the key of files before prepend_scheme
  const auto scheme = value_or<std::string>(spec, "prepend_scheme", legacy ? "always" : "never", where);
  if (scheme != "always" && scheme != "first" && scheme != "never")
    fail_field(where, "prepend_scheme", "always, first or never", &spec["prepend_scheme"]);
  const auto prepend = scheme == "always" ? Prepend::always : scheme == "first" ? Prepend::first : Prepend::never;
  auto replacement = value_or<std::string>(spec, "replacement", "▁", where);
  if (replacement.empty()) fail_field(where, "replacement", "a character", &spec["replacement"]);
  return {std::move(replacement), prepend};
}

}  // namespace

PreTokenizer PreTokenizer::read(const Json& spec, std::string_view where) {
  PreTokenizer p;
  if (!spec.is_null()) p.add(spec, where);
  if (!p.steps_.empty() && std::holds_alternative<rewrite::ByteLevel>(p.steps_.back())) {
    p.steps_.pop_back();
    p.byte_level_is_left_ = true;
  }
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
    if (value_or(spec, "add_prefix_space", true, where)) steps_.emplace_back(rewrite::PrefixSpace{});
    if (value_or(spec, "use_regex", true, where))
      steps_.emplace_back(cut::Split{Pattern::regex(gpt2_words, where), Behavior::isolated, false});
    steps_.emplace_back(rewrite::ByteLevel{});
  } else if (type == "Split") {
    if (!spec.contains("pattern")) fail_field(where, "pattern", "this key", nullptr);
    steps_.emplace_back(
        cut::Split{Pattern::read(spec["pattern"], where), read_behavior(spec, where, "Isolated"), value_or(spec, "invert", false, where)});
  } else if (type == "Metaspace") {
    auto metaspace = read_metaspace(spec, where);
    auto words = cut::Split{Pattern::literal(metaspace.replacement), Behavior::merged_with_next, false};
    steps_.emplace_back(std::move(metaspace));
    if (value_or(spec, "split", true, where)) steps_.emplace_back(std::move(words));
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

void PreTokenizer::apply(std::string_view text, bool at_start, Pieces& out, Scratch& s) const {
  out = {.text = text, .spans = std::move(out.spans), .at_start = at_start && !text.empty()};
  out.spans.assign(text.empty() ? 0 : 1, {0, text.size()});
  for (const Step& step : steps_) {
    s.spans.clear();
    s.spare.clear();
    const auto run_on_all = [&](const auto& how) {
      for (size_t i = 0; i < out.count(); ++i) {
        Work w{out[i], out.spans[i].begin, out.at_start && i == 0, s};
        run(how, w);
      }
      const bool begins_there = !s.spans.empty() && !out.spans.empty() && s.spans.front().begin == out.spans.front().begin;
      constexpr bool anew = rewrites<std::decay_t<decltype(how)>>;
      out.at_start = out.at_start && (anew || begins_there);
      out.spans.swap(s.spans);
      if (!anew) return;
      s.text.swap(s.spare);
      out.text = s.text;
    };
    std::visit(run_on_all, step);
  }
}

}  // namespace thimble::data
