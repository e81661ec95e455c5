// The random numbers of draws, and what a model folder says of them.
#include "serve/sampler.h"

#include "base/json.h"
#include "base/philox.h"

namespace thimble::serve {

Sampling read_sampling(const fs::path& folder) {
  Sampling s;
  const auto file = folder / "generation_config.json";
  if (!fs::exists(file)) return s;
  const std::string where = file.string();
  const Json c = parse_json(read_text(file, int64_t{16} << 20), where);
  if (!c.is_object()) fail_field(where, "generation_config.json", "an object", &c);
  const auto number = [&](const char* key, double otherwise, double least, double most) {
    const double v = value_or<double>(c, key, otherwise, where);
    if (!(v >= least && v <= most)) fail_field(where, key, fmt::format("a number from {} to {}", least, most), &c[key]);
    return v;
  };
  s.repetition_penalty = number("repetition_penalty", 1, 1e-6, 1e6);
  const double temperature = number("temperature", 1, 0, 1e6);
  s.top_k = int64_t(number("top_k", 50, 0, 1 << 24));  // transformers' own default
  s.top_p = number("top_p", 1, 0, 1);
  s.min_p = number("min_p", 0, 0, 1);
  if (value_or(c, "do_sample", false, where)) s.temperature = temperature;
  return s;
}

std::optional<ops::Drawing> Sampler::drawing(uint64_t later) const {
  if (how_.temperature <= 0) return std::nullopt;
  const auto bits = philox(how_.seed, 0x5a3b1e, taken_ + later);
  return ops::Drawing{how_.temperature, how_.top_k, how_.top_p, how_.min_p, uint64_t{bits[1]} << 32 | bits[0]};
}

int32_t Sampler::take(int32_t id) {
  if (id < 0)
    throw Error(Fault::bad_input, {.what = "the model's logits are not numbers", .where = "the token after the text so far", .expected = "finite logits", .found = "NaN or infinity",
                                   .fix = "thimble inspect MODEL --check-tensors says whether the weights are damaged"});
  ++taken_;
  return id;
}

}  // namespace thimble::serve
