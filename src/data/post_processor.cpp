// TemplateProcessing names tokens and gives their ids beside; the ids are checked against the vocabulary by the tokenizer.
#include "data/post_processor.h"

namespace thimble::data {
namespace {

const Json& member(const Json& object, const char* key, std::string_view where) {
  const auto it = object.find(key);
  if (it == object.end()) fail_field(where, key, "this key", nullptr);
  return *it;
}

void add_template(PostProcessor& p, const Json& spec, std::string_view where) {
  const Json& single = member(spec, "single", where);
  const Json& tokens = member(spec, "special_tokens", where);
  if (!single.is_array() || !tokens.is_object())
    fail_field(where, "post_processor", "a list `single` and an object `special_tokens`", &spec);
  std::vector<int32_t> before, after;
  bool text_seen = false;
  for (const Json& part : single) {
    if (part.is_object() && part.contains("Sequence")) {
      if (text_seen) fail_field(where, "post_processor.single", "the text once", &single);
      text_seen = true;
      continue;
    }
    if (!part.is_object() || !part.contains("SpecialToken") || !part["SpecialToken"].is_object())
      fail_field(where, "post_processor.single", "Sequence or SpecialToken", &part);
    const auto name = require<std::string>(part["SpecialToken"], "id", where);
    const auto token = tokens.find(name);
    if (token == tokens.end() || !token->is_object()) fail_field(where, "post_processor.special_tokens", "an entry for " + name, nullptr);
    const Json& ids = member(*token, "ids", where);
    if (!ids.is_array()) fail_field(where, "post_processor.special_tokens.ids", "a list of ids", &ids);
    for (const Json& id : ids) {
      const auto n = read_as<int64_t>(id, "post_processor.special_tokens.ids", where);
      if (n < 0 || n > INT32_MAX) fail_field(where, "post_processor.special_tokens.ids", "an id of the vocabulary", &id);
      (text_seen ? after : before).push_back(int32_t(n));
    }
  }
  if (!text_seen) fail_field(where, "post_processor.single", "the text once", &single);
  p.before.insert(p.before.begin(), before.begin(), before.end());  // a later template is put around an earlier one
  p.after.insert(p.after.end(), after.begin(), after.end());
  p.has_template = true;
}

void add(PostProcessor& p, const Json& spec, std::string_view where) {
  if (!spec.is_object()) fail_field(where, "post_processor", "an object", &spec);
  const auto type = require<std::string>(spec, "type", where);
  if (type == "TemplateProcessing") return add_template(p, spec, where);
  if (type == "ByteLevel") return;  // it only moves offsets, which we do not keep
  if (type != "Sequence") fail_field(where, "post_processor.type", "Sequence, TemplateProcessing or ByteLevel", &spec["type"]);
  const Json& list = member(spec, "processors", where);
  if (!list.is_array()) fail_field(where, "processors", "a list", &list);
  for (const Json& s : list) add(p, s, where);
}

}  // namespace

PostProcessor PostProcessor::read(const Json& spec, std::string_view where) {
  PostProcessor p;
  if (!spec.is_null()) add(p, spec, where);
  return p;
}

}  // namespace thimble::data
