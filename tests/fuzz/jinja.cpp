// A chat template: one that can be read must render a conversation, or refuse it, within its limits.
#include "data/jinja_template.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thimble;
  using namespace thimble::data::jinja;
  return fuzz::take_or_refuse([&] {
    const Template t(fuzz::text(data, size));
    const Json messages{{{"role", "user"}, {"content", " a <|x|> é\n"}}, {{"role", "assistant"}, {"content", "b"}, {"tool_calls", {{{"function", {{"name", "f"}, {"arguments", {{"k", 1}}}}}}}}}};
    t.render({{"messages", Value::from_json(messages, 1)}, {"tools", Value()}, {"bos_token", "<s>"}, {"eos_token", "</s>"}, {"add_generation_prompt", true}}, {.steps = 200'000}, {});
  });
}
