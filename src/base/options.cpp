// Types of options and the loop that sets them. What a value may be is asked of the field; only messages are made here.
#include "base/options.h"

#include <algorithm>
#include <cmath>

#include "base/file.h"

namespace thimble {
namespace {

constexpr std::string_view command_line = "command line";

std::string_view trimmed(std::string_view s) {
  const auto begin = s.find_first_not_of(" \t");
  return begin == s.npos ? std::string_view{} : s.substr(begin, s.find_last_not_of(" \t") - begin + 1);
}

std::string text_of(const Json& v) {
  if (v.is_number_float() && !std::isfinite(v.get<double>())) return std::isnan(v.get<double>()) ? ".nan" : v.get<double>() > 0 ? ".inf" : "-.inf";
  std::string text = v.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

bool says_no(const Json& v) {
  if (v.is_null()) return true;
  if (v.is_boolean()) return !v.get<bool>();
  if (v.is_number()) return v.get<double>() == 0;
  return v.is_string() && (v == "none" || v == "no" || v == "" || v == "False");
}

template <class Row>
const Row* find_row(std::span<const Row> rows, std::string_view key) {
  const auto it = std::find_if(rows.begin(), rows.end(), [&](const Row& r) { return r.key == key; });
  return it == rows.end() ? nullptr : &*it;
}

// What a person most likely meant by a value of the wrong type.
std::string advice(const Field& f, const Json& v) {
  if (!v.is_string()) return v.is_number() && f.type == "text" ? "put it in quotes" : "";
  const auto text = v.get<std::string>();
  bool flag = false;
  if (f.is_flag && !assign(flag, v))
    for (const auto& [word, means] : {std::pair{"yes", "true"}, {"on", "true"}, {"Yes", "true"}, {"On", "true"}, {"no", "false"}, {"off", "false"}, {"No", "false"}, {"Off", "false"}})
      if (text == word) return fmt::format("write {}", means);
  if (f.set(resolve_scalar(text))) return "remove the quotes";  // only asked on the way to an error, so the change does no harm
  std::vector<std::string> spellings;
  for (size_t at = 0; at < f.type.size();) {
    const auto end = std::min(f.type.find(" | ", at), f.type.size());
    spellings.push_back(f.type.substr(at, end - at));
    at = end + 3;
  }
  const auto close = spellings.size() > 1 ? nearest(text, spellings) : "";
  return close.empty() ? "" : fmt::format("did you mean '{}'?", close);
}

[[noreturn]] void fail_type(const Field& f, const Keys& keys, const Assignment& a) {
  const std::string text = a.value.is_string() ? a.value.get<std::string>() : a.value.dump();
  for (const NotedValue& n : keys.refused_values)
    if (n.key == f.key && n.value == text)
      throw Error(Fault::usage, {.what = fmt::format("'{}: {}' is not available", a.key, text), .where = a.where, .expected = f.type, .fix = std::string(n.why)});
  throw Error(Fault::usage, {.what = fmt::format("bad value of '{}'", a.key), .where = a.where, .expected = f.type, .found = text_of(a.value), .fix = advice(f, a.value)});
}

[[noreturn]] void fail_unknown(std::span<const Field> fields, const Keys& keys, const std::string& key, std::string where) {
  std::vector<std::string_view> known;
  for (const auto& f : fields) known.push_back(f.key);
  for (const auto& a : keys.aliases) known.push_back(a.key);
  for (const auto& n : keys.ignored) known.push_back(n.key);
  const auto close = nearest(key, known);
  throw Error(Fault::usage, {.what = fmt::format("unknown key '{}'", key.substr(0, 80)), .where = std::move(where),
                             .fix = close.empty() ? "--help-all lists the keys" : fmt::format("did you mean '{}'?", close)});
}

}  // namespace

bool assign(int64_t& target, const Json& v) {
  if (v.is_number_unsigned() && v.get<uint64_t>() > uint64_t(INT64_MAX)) return false;
  if (v.is_number_integer()) return target = v.get<int64_t>(), true;
  if (!v.is_number_float()) return false;
  const double x = v.get<double>();
  if (!(std::fabs(x) <= 0x1p53) || x != std::floor(x)) return false;
  return target = int64_t(x), true;
}
bool assign(double& target, const Json& v) { return v.is_number() && (target = v.get<double>(), true); }
bool assign(bool& target, const Json& v) { return v.is_boolean() && (target = v.get<bool>(), true); }
bool assign(std::string& target, const Json& v) { return v.is_string() && (target = v.get<std::string>(), true); }
bool assign(std::vector<std::string>& target, const Json& v) {
  std::vector<std::string> items;
  if (v.is_string()) {
    const auto text = v.get<std::string>();
    for (size_t at = 0; at <= text.size();) {
      const auto end = std::min(text.find(',', at), text.size());
      items.emplace_back(trimmed(std::string_view(text).substr(at, end - at)));
      at = end + 1;
    }
    if (trimmed(text).empty()) items.clear();
  } else if (v.is_array()) {
    for (const auto& item : v) {
      if (!item.is_string()) return false;
      items.push_back(item.get<std::string>());
    }
  } else if (!v.is_null()) {
    return false;
  }
  if (std::find(items.begin(), items.end(), "") != items.end()) return false;
  return target = std::move(items), true;
}
bool assign(std::vector<double>& target, const Json& v) {
  std::vector<double> items;
  std::vector<std::string> words;
  if (v.is_number()) {
    items.push_back(v.get<double>());
  } else if (v.is_array()) {
    for (const Json& item : v)
      if (double x = 0; assign(x, item)) items.push_back(x);
      else return false;
  } else if (assign(words, v)) {
    for (const std::string& word : words)
      if (double x = 0; assign(x, resolve_scalar(word))) items.push_back(x);
      else return false;
  } else {
    return false;
  }
  return target = std::move(items), true;
}
bool assign(Bytes& target, const Json& v) {
  int64_t count = 0;
  if (v.is_number()) return assign(count, v) && count >= 0 && (target.count = count, true);
  if (!v.is_string()) return false;
  try {
    target.count = parse_bytes(v.get<std::string>(), "");
    return true;
  } catch (const Error&) {
    return false;  // the caller's message names the key and shows how a size is written
  }
}

Json shown(int64_t v) { return v; }
Json shown(double v) { return std::isfinite(v) ? Json(v) : Json(text_of(v)); }
Json shown(bool v) { return v; }
Json shown(const std::string& v) { return v; }
Json shown(const std::vector<std::string>& v) { return v; }
Json shown(const std::vector<double>& v) { return v; }
Json shown(Bytes v) { return v.count; }
std::string type_name(const int64_t&) { return "integer"; }
std::string type_name(const double&) { return "number"; }
std::string type_name(const bool&) { return "true | false"; }
std::string type_name(const std::string&) { return "text"; }
std::string type_name(const std::vector<std::string>&) { return "list, as 'a, b' or [a, b]"; }
std::string type_name(const std::vector<double>&) { return "list of numbers, as '0.7, 0.3' or [0.7, 0.3]"; }
std::string type_name(const Bytes&) { return "size such as 24GiB, 800MB or a number of bytes"; }

const Choice* find_choice(std::span<const Choice> choices, const Json& v) {
  const std::string text = v.is_string() ? v.get<std::string>() : v.is_null() ? "none" : v.dump();
  const auto it = std::find_if(choices.begin(), choices.end(), [&](const Choice& c) { return c.text == text; });
  return it == choices.end() ? nullptr : &*it;
}
std::string_view spelling(std::span<const Choice> choices, int value) {
  const auto it = std::find_if(choices.begin(), choices.end(), [&](const Choice& c) { return c.value == value; });
  check(it != choices.end(), "every value of an option's enum has a spelling");
  return it->text;
}
std::string alternatives(std::span<const Choice> choices) {
  std::string text;
  for (const Choice& c : choices) text += fmt::format("{}{}", text.empty() ? "" : " | ", c.text);
  return text;
}
bool means_nothing(const Json& v) { return v.is_null() || (v.is_string() && (v == "none" || v == "auto" || v == "None")); }

std::vector<Assignment> assignments(const Yaml& yaml, std::string_view file) {
  if (!yaml.value.is_object())
    throw Error(Fault::usage, {.what = "a configuration is a list of `key: value`", .where = std::string(file), .found = text_of(yaml.value)});
  std::vector<Assignment> list;
  for (const auto& [key, value] : yaml.value.items()) {
    const auto line = yaml.lines.find(key);
    list.push_back({key, value, line == yaml.lines.end() ? std::string(file) : fmt::format("{}:{}", file, line->second)});
  }
  return list;
}

std::vector<Assignment> overrides(std::span<const std::string> arguments, std::span<const Field> fields, const Keys& keys) {
  std::vector<Assignment> list;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string_view rest = arguments[i];
    if (!is_utf8(rest))  // it would stand in the record of the run, which is JSON
      throw Error(Fault::usage, {.what = fmt::format("argument {} is not UTF-8", i + 1), .where = std::string(command_line), .fix = "name files and folders in UTF-8"});
    const bool dashed = rest.starts_with("--");
    if (dashed) rest.remove_prefix(2);
    const auto equals = rest.find('=');
    std::string key(rest.substr(0, equals));
    std::replace(key.begin(), key.end(), '-', '_');
    if (key.empty() || (!dashed && equals == rest.npos))
      throw Error(Fault::usage, {.what = "an argument that is neither key=value nor --key value", .where = std::string(command_line), .found = arguments[i].substr(0, 80)});
    Assignment a{key, nullptr, std::string(command_line), true};
    const Alias* alias = find_row(keys.aliases, key);
    const Field* field = find_row(fields, alias ? alias->means : std::string_view(key));
    if (equals != rest.npos) {
      a.value = std::string(rest.substr(equals + 1));
    } else if (i + 1 < arguments.size() && !arguments[i + 1].starts_with("--") && !(field && field->is_flag && arguments[i + 1].find('=') != std::string::npos)) {
      a.value = arguments[++i];
    } else if (field && !field->is_flag) {
      throw Error(Fault::usage, {.what = fmt::format("'--{}' needs a value", key), .where = std::string(command_line), .expected = field->type});
    } else {
      a.value = "true";
    }
    list.push_back(std::move(a));
  }
  return list;
}

Given set_fields(std::span<const Field> fields, const Keys& keys, std::span<const Assignment> list) {
  Given given;
  std::map<std::string, const Assignment*> last;  // who set a field: two names of one thing must not disagree in one source
  for (const Assignment& a : list) {
    const Json typed = a.is_text ? resolve_scalar(a.value.get<std::string>()) : a.value;
    const Alias* alias = find_row(keys.aliases, a.key);
    const std::string key(alias ? alias->means : std::string_view(a.key));
    const Field* field = find_row(fields, key);
    if (!field) {
      if (const Noted* n = find_row(keys.ignored, key)) {
        const auto note = fmt::format("{} ({})", a.key, n->why);
        if (std::find(given.ignored.begin(), given.ignored.end(), note) == given.ignored.end()) given.ignored.push_back(note);
      } else if (const Noted* r = find_row(keys.refused, key)) {
        if (!says_no(typed))
          throw Error(Fault::usage, {.what = fmt::format("'{}' is not available", a.key), .where = a.where, .found = text_of(typed), .fix = std::string(r->why)});
      } else {
        fail_unknown(fields, keys, a.key, a.where);
      }
      continue;
    }
    const auto before = last.find(key);
    if (before != last.end() && before->second->key != a.key && before->second->is_text == a.is_text)
      throw Error(Fault::usage, {.what = fmt::format("'{}' and '{}' are two names of one option", before->second->key, a.key),
                                 .where = fmt::format("{} and {}", before->second->where, a.where), .fix = fmt::format("keep '{}'", key)});
    // Text of the command line that looks like a number may still be meant as text.
    if (!field->set(typed) && !(a.is_text && field->set(a.value))) fail_type(*field, keys, {a.key, typed, a.where});
    last[key] = &a;
    given.where[key] = a.where;
  }
  return given;
}

Json to_json(std::span<const Field> fields) {
  Json record = Json::object();
  for (const Field& f : fields) record[f.key] = f.get();
  return record;
}

std::vector<std::string> help_lines(std::span<const Field> fields) {
  size_t width = 0;
  for (const Field& f : fields) width = std::max(width, f.key.size());
  std::vector<std::string> lines;
  for (const Field& f : fields) {
    const Json value = f.get();
    lines.push_back(fmt::format("{:<{}}  {} [{}; {}]", f.key, width, f.help, f.type, value.is_string() ? value.get<std::string>() : text_of(value)));
  }
  return lines;
}

}  // namespace thimble
