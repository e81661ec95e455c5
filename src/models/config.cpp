// Both spellings of RoPE: rope_theta beside rope_scaling {rope_type | type}, and rope_parameters {rope_theta, rope_type}, which may hold one
// object for each type of layer.
#include "models/config.h"

#include <algorithm>
#include <cmath>

namespace thimble::models {
namespace {

constexpr int64_t most_positions = int64_t{1} << 31;
constexpr double most_factor = 1e6, most_theta = 1e12;

std::vector<double> factors(const Json& s, const char* key, const std::string& where, int64_t pairs) {
  const auto it = s.find(key);
  const std::string expected = fmt::format("an array of {} positive numbers, one for each pair of channels that turn", pairs);
  if (it == s.end() || !it->is_array() || int64_t(it->size()) != pairs) fail_field(where, key, expected, it == s.end() ? nullptr : &*it);
  std::vector<double> all;
  for (const Json& v : *it) {
    all.push_back(read_as<double>(v, key, where));
    if (!(all.back() > 0 && all.back() <= most_factor)) fail_field(where, key, expected, &v);
  }
  return all;
}

// Where the files name no factor it is how much longer the context has become.
double stretch(const Json& s, const std::string& where, const nn::ModelSpec& m, const nn::RopeSpec& rope) {
  return positive(s, "factor", where, most_factor, double(m.max_positions) / double(rope.original_positions));
}

void read_llama3(nn::RopeSpec& rope, const Json& s, const std::string& where) {
  rope.factor = positive(s, "factor", where, most_factor);
  rope.low_freq_factor = positive(s, "low_freq_factor", where, most_factor);
  rope.high_freq_factor = positive(s, "high_freq_factor", where, most_factor);
  if (rope.high_freq_factor <= rope.low_freq_factor)
    fail_field(where, "high_freq_factor", fmt::format("more than low_freq_factor, {}", rope.low_freq_factor), &s["high_freq_factor"]);
}

void read_yarn(nn::RopeSpec& rope, const Json& s, const std::string& where, const nn::ModelSpec& m) {
  rope.factor = stretch(s, where, m, rope);
  rope.beta_fast = positive(s, "beta_fast", where, most_factor, 32);
  rope.beta_slow = positive(s, "beta_slow", where, most_factor, 1);
  if (rope.beta_fast < rope.beta_slow) fail_field(where, "beta_fast", fmt::format("at least beta_slow, {}", rope.beta_slow), given(s, "beta_fast") ? &s["beta_fast"] : nullptr);
  rope.truncate = value_or<bool>(s, "truncate", true, where);
  if (rope.theta == 1) fail_field(where, "rope_theta", "a base other than 1, which yarn takes the logarithm of", nullptr);
  const auto scale = [&](double mscale) { return rope.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(rope.factor) + 1; };
  const auto mscale = value_or<double>(s, "mscale", 0, where), all = value_or<double>(s, "mscale_all_dim", 0, where);
  rope.attention_factor = positive(s, "attention_factor", where, most_factor, mscale != 0 && all != 0 ? scale(mscale) / scale(all) : scale(1));
}

void read_longrope(nn::RopeSpec& rope, const Json& s, const std::string& where, const nn::ModelSpec& m, int64_t pairs) {
  rope.short_factor = factors(s, "short_factor", where, pairs);
  rope.long_factor = factors(s, "long_factor", where, pairs);
  rope.factor = stretch(s, where, m, rope);
  const double usual = rope.factor <= 1 ? 1.0 : std::sqrt(1 + std::log(rope.factor) / std::log(double(rope.original_positions)));
  rope.attention_factor = positive(s, "attention_factor", where, most_factor, usual);
}

void read_ropes(nn::ModelSpec& m, const Json& c, const std::string& where, int64_t head_dim, const Defaults& d) {
  const double theta = positive(c, "rope_theta", where, most_theta, d.theta);
  const char* key = given(c, "rope_parameters") ? "rope_parameters" : "rope_scaling";
  const Json none = Json::object();
  const Json& s = given(c, key) ? c[key] : none;
  if (!s.is_object()) fail_field(where, key, "an object", &s);
  const bool by_type = given(s, "full_attention") || given(s, "sliding_attention");
  const auto of_type = [&](const char* type) {
    const std::string inside = fmt::format("{}, {}, {}", where, key, type);
    if (!given(s, type)) fail_field(where, fmt::format("{}.{}", key, type), "RoPE of this type of layer, since it is given of another", nullptr);
    if (!s[type].is_object()) fail_field(where, type, "an object", &s[type]);
    return read_rope(s[type], c, inside, m, head_dim, theta, d);
  };
  m.rope = by_type ? of_type("full_attention") : read_rope(s, c, given(c, key) ? where + ", " + key : where, m, head_dim, theta, d);
  m.local_rope = by_type ? of_type("sliding_attention") : m.rope;
}

}  // namespace

int64_t size_in(const Json& c, const char* key, const std::string& where, int64_t most, std::optional<int64_t> otherwise) {
  const int64_t v = otherwise ? value_or<int64_t>(c, key, *otherwise, where) : require<int64_t>(c, key, where);
  if (v < 1 || v > most) fail_field(where, key, fmt::format("an integer from 1 to {}", most), c.contains(key) ? &c[key] : nullptr);
  return v;
}

double positive(const Json& c, const char* key, const std::string& where, double most, std::optional<double> otherwise) {
  const double v = otherwise ? value_or<double>(c, key, *otherwise, where) : require<double>(c, key, where);
  if (!(v > 0 && v <= most)) fail_field(where, key, fmt::format("a number above 0, at most {}", most), c.contains(key) ? &c[key] : nullptr);
  return v;
}

void refuse_unless(const Json& c, const char* key, const Json& only, const std::string& where) {
  const auto it = c.find(key);
  if (it != c.end() && !it->is_null() && *it != only) fail_field(where, key, "only " + only.dump() + " is supported", &*it);
}

bool given(const Json& c, const char* key) { return c.contains(key) && !c[key].is_null(); }

nn::RopeSpec read_rope(const Json& s, const Json& c, const std::string& where, const nn::ModelSpec& m, int64_t head_dim, double theta, const Defaults& d) {
  using Kind = nn::RopeSpec::Kind;
  nn::RopeSpec rope;
  rope.theta = positive(s, "rope_theta", where, most_theta, theta);
  if (d.partial_rope) rope.share = positive(s, "partial_rotary_factor", where, 1, positive(c, "partial_rotary_factor", where, 1, 1));
  else refuse_unless(s, "partial_rotary_factor", 1, where), refuse_unless(c, "partial_rotary_factor", 1, where);
  if (rope.pairs(head_dim) < 1) fail_field(where, "partial_rotary_factor", fmt::format("a share of {} channels that holds a pair", head_dim), nullptr);
  const char* type_key = given(s, "rope_type") ? "rope_type" : "type";
  auto type = value_or<std::string>(s, type_key, "default", where);
  if (d.partial_rope && (type == "su" || type == "yarn")) type = "longrope";  // what Phi-3's first files called it
  if (type == "default") return rope;
  static constexpr std::pair<std::string_view, Kind> kinds[] = {
      {"linear", Kind::linear}, {"dynamic", Kind::dynamic}, {"llama3", Kind::llama3}, {"yarn", Kind::yarn}, {"longrope", Kind::longrope}};
  for (const auto& [name, kind] : kinds)
    if (name == type) rope.kind = kind;
  if (rope.kind == Kind::plain) fail_field(where, type_key, "default, linear, dynamic, llama3, yarn or longrope", &s[type_key]);
  if (rope.kind == Kind::linear) {
    rope.factor = positive(s, "factor", where, most_factor);
    return rope;
  }
  if (rope.kind == Kind::dynamic) {
    rope.factor = positive(s, "factor", where, most_factor);
    if (rope.pairs(head_dim) < 2) fail_field(where, type_key, "another type where only one pair of channels turns", &s[type_key]);
    rope.original_positions = m.max_positions;
    return rope;
  }
  // Some files name it outside, and then it counts.
  rope.original_positions = size_in(s, "original_max_position_embeddings", where, most_positions, m.max_positions);
  rope.original_positions = size_in(c, "original_max_position_embeddings", where, most_positions, rope.original_positions);
  switch (rope.kind) {
    case Kind::llama3: read_llama3(rope, s, where); break;
    case Kind::yarn: read_yarn(rope, s, where, m); break;
    default: read_longrope(rope, s, where, m, rope.pairs(head_dim));
  }
  return rope;
}

Json rope_of(const nn::RopeSpec& rope) {
  using Kind = nn::RopeSpec::Kind;
  switch (rope.kind) {
    case Kind::plain: return nullptr;
    case Kind::linear: return {{"rope_type", "linear"}, {"factor", rope.factor}};
    case Kind::dynamic: return {{"rope_type", "dynamic"}, {"factor", rope.factor}};
    case Kind::llama3:
      return {{"rope_type", "llama3"}, {"factor", rope.factor}, {"low_freq_factor", rope.low_freq_factor}, {"high_freq_factor", rope.high_freq_factor},
              {"original_max_position_embeddings", rope.original_positions}};
    case Kind::yarn:
      return {{"rope_type", "yarn"}, {"factor", rope.factor}, {"original_max_position_embeddings", rope.original_positions},
              {"attention_factor", rope.attention_factor}, {"beta_fast", rope.beta_fast}, {"beta_slow", rope.beta_slow}, {"truncate", rope.truncate}};
    case Kind::longrope:
      return {{"rope_type", "longrope"}, {"factor", rope.factor}, {"original_max_position_embeddings", rope.original_positions},
              {"attention_factor", rope.attention_factor}, {"short_factor", rope.short_factor}, {"long_factor", rope.long_factor}};
  }
  return nullptr;
}

nn::ModelSpec read_decoder(const Json& c, const std::string& family, const std::string& where, const Defaults& d) {
  constexpr int64_t most = int64_t{1} << 24;
  refuse_unless(c, d.activation_key, d.activation, where);
  nn::ModelSpec m{.family = family};
  m.vocab = size_in(c, "vocab_size", where, most);
  m.hidden = size_in(c, "hidden_size", where, most);
  m.max_positions = size_in(c, "max_position_embeddings", where, most_positions, d.max_positions);
  m.norm_eps = positive(c, "rms_norm_eps", where, 1, d.norm_eps);
  m.tied_head = value_or<bool>(c, "tie_word_embeddings", d.tied_head, where);
  const char* dtype_key = given(c, "dtype") ? "dtype" : "torch_dtype";
  m.dtype = value_or<std::string>(c, dtype_key, "float32", where);
  if (m.dtype != "float32" && m.dtype != "bfloat16" && m.dtype != "float16")
    fail_field(where, dtype_key, "float32, bfloat16 or float16", &c[dtype_key]);
  nn::LayerSpec layer;
  layer.heads = size_in(c, "num_attention_heads", where, 65536);
  layer.kv_heads = size_in(c, "num_key_value_heads", where, 65536, d.kv_heads.value_or(layer.heads));
  layer.ffn = size_in(c, "intermediate_size", where, most);
  if (!given(c, "head_dim") && !d.head_dim && m.hidden % layer.heads)
    fail_field(where, "num_attention_heads", fmt::format("a divisor of hidden_size {}, or head_dim beside it", m.hidden),
               &c["num_attention_heads"]);
  layer.head_dim = size_in(c, "head_dim", where, 4096, d.head_dim.value_or(m.hidden / layer.heads));
  if (layer.heads % layer.kv_heads)
    fail_field(where, "num_key_value_heads", fmt::format("a divisor of {} heads", layer.heads),
               c.contains("num_key_value_heads") ? &c["num_key_value_heads"] : nullptr);
  if (layer.head_dim % 2)
    fail_field(where, "head_dim", fmt::format("an even number, which RoPE turns in pairs, not {}", layer.head_dim),
               c.contains("head_dim") ? &c["head_dim"] : nullptr);
  layer.qkv_bias = layer.o_bias = value_or<bool>(c, "attention_bias", false, where);
  layer.mlp_bias = value_or<bool>(c, "mlp_bias", false, where);
  m.layers.assign(size_t(size_in(c, "num_hidden_layers", where, 10000)), layer);
  read_ropes(m, c, where, layer.head_dim, d);
  return m;
}

Json layer_types(const nn::ModelSpec& m) {
  Json types = Json::array();
  for (const auto& l : m.layers) types.push_back(l.window ? "sliding_attention" : "full_attention");
  return types;
}

Json largest_window(const nn::ModelSpec& m) {
  int64_t window = 0;
  for (const auto& l : m.layers) window = std::max(window, l.window);
  return window ? Json(window) : Json(nullptr);
}

void set_window(nn::ModelSpec& m, const Json& c, const std::string& where, int layer, int64_t window, bool otherwise) {
  bool sliding = otherwise;
  if (given(c, "layer_types")) {
    const Json& types = c["layer_types"];
    if (!types.is_array() || types.size() != m.layers.size())
      fail_field(where, "layer_types", fmt::format("an array of {} types, one a layer", m.layers.size()), &types);
    const Json& type = types[size_t(layer)];
    if (type != "full_attention" && type != "sliding_attention") fail_field(where, "layer_types", "full_attention or sliding_attention", &type);
    sliding = type == "sliding_attention";
  }
  nn::LayerSpec& l = m.layers[size_t(layer)];
  if (!sliding || window == 0) return;
  l.window = window;
  l.local_rope = m.local_rope != m.rope;
}

}  // namespace thimble::models
