// config.json of every family, quantization_config included: a config that is taken gives a table of parameters whose sizes are sane.
#include "models/registry.h"
#include "nn/params.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thimble;
  return fuzz::take_or_refuse([&] {
    const auto spec = models::parse_config(parse_json(fuzz::text(data, size), "config.json"), "config.json");
    const auto table = nn::parameters(spec, spec.stored.format);
    check(table.parameters() > 0 && table.layers.size() == spec.layers.size(), "a model has parameters");
    models::parse_config(models::config_of(spec), "written");
  });
}
