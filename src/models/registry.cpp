// The table of families, in plain sight, and the config of any of them.
#include "models/registry.h"

#include <algorithm>

#include "models/config.h"
#include "models/quantization.h"

namespace thimble::models {

// A row is the name of a function, which a family's file defines and nothing else needs to see.
#define THIMBLE_FAMILIES(ROW) \
  ROW(llama)                  \
  ROW(mistral)                \
  ROW(qwen2)                  \
  ROW(qwen3)                  \
  ROW(gemma2)                 \
  ROW(gemma3)                 \
  ROW(phi3)                   \
  ROW(seed_oss)
#define THIMBLE_DECLARE(name) Family name();
THIMBLE_FAMILIES(THIMBLE_DECLARE)
#undef THIMBLE_DECLARE

namespace {

// Sums of bytes stay far inside 63 bits, whatever a config says.
void check_size(const nn::ModelSpec& m, const std::string& where) {
  constexpr double most = 1e14;
  double count = 2.0 * double(m.vocab) * double(m.hidden);
  for (const auto& l : m.layers)
    count += double(m.hidden) * (2.0 * double(l.heads + l.kv_heads) * double(l.head_dim) + 3.0 * double(l.ffn));
  if (count > most)
    throw Error(Fault::bad_input, {.what = "a model larger than any machine",
                                   .where = where,
                                   .expected = fmt::format("at most {:.0e} parameters", most),
                                   .found = fmt::format("{:.2e}", count)});
}

}  // namespace

std::span<const Family> families() {
#define THIMBLE_CALL(name) name(),
  static const Family rows[] = {THIMBLE_FAMILIES(THIMBLE_CALL)};
#undef THIMBLE_CALL
  return rows;
}

nn::ModelSpec parse_config(const Json& config, const std::string& where) {
  if (!config.is_object()) fail_field(where, "config", "an object", &config);
  const auto list = config.find("architectures");
  if (list == config.end() || !list->is_array() || list->empty())
    fail_field(where, "architectures", "an array that names one architecture", list == config.end() ? nullptr : &*list);
  if (config.contains("auto_map") && !config["auto_map"].is_null())
    throw Error(Fault::bad_input, {.what = "a model that is defined by code of its own",
                                   .where = where,
                                   .expected = "an architecture of transformers itself",
                                   .found = "auto_map",
                                   .fix = "where the code does what its architecture's name says, remove auto_map from config.json"});
  const auto name = read_as<std::string>((*list)[0], "architectures", where);
  std::string known;
  for (const auto& f : families()) {
    if (f.architecture == name) {
      auto spec = f.read(config, where);
      spec.stored = read_stored(config, where);
      check_size(spec, where);
      return spec;
    }
    known += (known.empty() ? "" : ", ") + std::string(f.architecture);
  }
  throw Error(Fault::bad_input,
              {.what = "an architecture that is not supported", .where = where, .expected = known, .found = name.substr(0, 80)});
}

nn::ModelSpec read_model(const fs::path& path) {
  const fs::path file = fs::is_directory(path) ? path / "config.json" : path;
  return parse_config(parse_json(read_text(file, int64_t{16} << 20), file.string()), file.string());
}

Json config_of(const nn::ModelSpec& m) {
  const auto& l = m.layers.front();
  const auto rows = families();
  const auto family = std::find_if(rows.begin(), rows.end(), [&](const Family& f) { return f.model_type == m.family; });
  check(family != rows.end(), "a model is of a family of the table");
  Json c = {{"architectures", {family->architecture}},
            {"model_type", family->model_type},
            {"vocab_size", m.vocab},
            {"hidden_size", m.hidden},
            {"intermediate_size", l.ffn},
            {"num_hidden_layers", m.layers.size()},
            {"num_attention_heads", l.heads},
            {"num_key_value_heads", l.kv_heads},
            {"head_dim", l.head_dim},
            {"max_position_embeddings", m.max_positions},
            {"rms_norm_eps", m.norm_eps},
            {"rope_theta", m.rope.theta},
            {"hidden_act", "silu"},
            {"tie_word_embeddings", m.tied_head},
            {"pad_token_id", nullptr},  // some families have a default, which a small vocabulary may not reach
            {"torch_dtype", m.dtype}};
  if (const Json rope = rope_of(m.rope); !rope.is_null()) c["rope_scaling"] = rope;
  if (std::any_of(m.layers.begin(), m.layers.end(), [](const auto& x) { return x.local_rope; })) {
    const auto full = [](const nn::RopeSpec& rope) {
      Json r = rope_of(rope).is_null() ? Json{{"rope_type", "default"}} : rope_of(rope);
      r["rope_theta"] = rope.theta;
      return r;
    };
    c["rope_parameters"] = {{"full_attention", full(m.rope)}, {"sliding_attention", full(m.local_rope)}};
  }
  family->write(c, m);
  return c;
}

std::vector<int32_t> end_tokens(const fs::path& folder, int64_t vocab) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    const auto file = folder / name;
    if (!fs::exists(file)) continue;
    const Json c = parse_json(read_text(file, int64_t{16} << 20), file.string());
    if (!c.is_object()) fail_field(file.string(), name, "an object", &c);
    const auto it = c.find("eos_token_id");
    if (it == c.end() || it->is_null()) continue;
    std::vector<int32_t> ends;
    for (const Json& v : it->is_array() ? *it : Json::array({*it})) {
      const auto id = read_as<int64_t>(v, "eos_token_id", file.string());
      if (id < 0 || id >= vocab) fail_field(file.string(), "eos_token_id", fmt::format("ids of the vocabulary, below {}", vocab), &v);
      ends.push_back(int32_t(id));
    }
    return ends;
  }
  return {};
}

}  // namespace thimble::models
