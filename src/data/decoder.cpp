// What each step does to bytes that are no text is what the reference does: a byte-level decoder repairs the whole,
// byte fallback gives one U+FFFD for each byte of a run that is not valid as a whole.
#include "data/decoder.h"

#include "data/byte_level.h"
#include "data/utf8.h"

namespace thimble::data {
namespace {

using Tokens = std::vector<std::string>;

std::string joined(const Tokens& tokens, std::string_view between = "") {
  std::string all;
  for (size_t i = 0; i < tokens.size(); ++i) all.append(i ? between : "").append(tokens[i]);
  return all;
}

void run(const join::ByteLevel&, Tokens& tokens) {
  std::string bytes;
  for (const std::string& t : tokens) bytes += from_byte_level(t).value_or(t);  // an added token stands for itself
  tokens = {repair_utf8(bytes)};
}

int byte_of(std::string_view token) {  // <0x4F>, -1 for any other token
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  const int high = digit(token[3]), low = digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

void run(const join::ByteFallback&, Tokens& tokens) {
  Tokens out;
  std::string bytes;
  const auto end_of_run = [&] {
    if (first_invalid_utf8(bytes) == bytes.npos) {
      if (!bytes.empty()) out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), "\ufffd");
    }
    bytes.clear();
  };
  for (std::string& t : tokens) {
    if (const int b = byte_of(t); b >= 0) {
      bytes += char(b);
    } else {
      end_of_run();
      out.push_back(std::move(t));
    }
  }
  end_of_run();
  tokens = std::move(out);
}

void run(const join::Fuse&, Tokens& tokens) { tokens = {joined(tokens)}; }

void run(const join::Replace& s, Tokens& tokens) {
  for (std::string& t : tokens) t = s.pattern.replace_all(t, s.with);
}

void run(const join::Strip& s, Tokens& tokens) {
  for (std::string& t : tokens) {
    std::string_view rest = t;
    for (size_t i = 0; i < s.start && rest.starts_with(s.content); ++i) rest.remove_prefix(s.content.size());
    for (size_t i = 0; i < s.stop && rest.ends_with(s.content); ++i) rest.remove_suffix(s.content.size());
    t = std::string(rest);
  }
}

void run(const join::Metaspace& s, Tokens& tokens) {
  const Pattern replacement = Pattern::literal(s.replacement);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = replacement.replace_all(tokens[i], i == 0 && s.drops_first ? "" : " ");
}

}  // namespace

Decoder Decoder::read(const Json& spec, std::string_view where) {
  Decoder d;
  d.blanks_between_ = spec.is_null();
  if (!spec.is_null()) d.add(spec, where);
  return d;
}

void Decoder::add(const Json& spec, std::string_view where) {
  if (!spec.is_object()) fail_field(where, "decoder", "an object", &spec);
  const auto type = require<std::string>(spec, "type", where);
  if (type == "Sequence") {
    const auto list = spec.find("decoders");
    if (list == spec.end() || !list->is_array()) fail_field(where, "decoders", "a list", list == spec.end() ? nullptr : &*list);
    for (const Json& s : *list) add(s, where);
  } else if (type == "ByteLevel") {
    steps_.emplace_back(join::ByteLevel{});
  } else if (type == "ByteFallback") {
    steps_.emplace_back(join::ByteFallback{});
  } else if (type == "Fuse") {
    steps_.emplace_back(join::Fuse{});
  } else if (type == "Replace") {
    if (!spec.contains("pattern")) fail_field(where, "pattern", "this key", nullptr);
    steps_.emplace_back(join::Replace{Pattern::read(spec["pattern"], where), require<std::string>(spec, "content", where)});
  } else if (type == "Strip") {
    const auto start = value_or<int64_t>(spec, "start", 0, where), stop = value_or<int64_t>(spec, "stop", 0, where);
    auto content = require<std::string>(spec, "content", where);
    if (start < 0 || stop < 0 || content.empty()) fail_field(where, "decoder.Strip", "a character and counts of at least 0", &spec);
    steps_.emplace_back(join::Strip{std::move(content), size_t(start), size_t(stop)});
  } else if (type == "Metaspace") {
    const bool legacy = value_or(spec, "add_prefix_space", true, where);
    const bool drops_first = value_or<std::string>(spec, "prepend_scheme", legacy ? "always" : "never", where) != "never";
    steps_.emplace_back(join::Metaspace{value_or<std::string>(spec, "replacement", "▁", where), drops_first});
  } else {
    fail_field(where, "decoder.type", "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip or Metaspace", &spec["type"]);
  }
}

std::string Decoder::apply(std::vector<std::string> tokens) const {
  for (const Step& step : steps_) std::visit([&](const auto& s) { run(s, tokens); }, step);
  return joined(tokens, blanks_between_ ? " " : "");
}

}  // namespace thimble::data
