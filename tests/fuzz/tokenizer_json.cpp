// tokenizer.json: a file that opens must also encode and decode, whatever it says.
#include "data/tokenizer.h"
#include "target.h"

namespace {

constexpr std::string_view probe = "Hi, \tWörld 12345!\r\n  ▁x <s> 你好🙂🏽 don't a\u0301\u0323 <|x|> end ";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thimble;
  return fuzz::take_or_refuse([&] {
    const data::Tokenizer tokenizer(data::parse_tokenizer_file(fuzz::text(data, size), "tokenizer.json"), Json());
    for (const bool special : {true, false}) tokenizer.decode(tokenizer.encode(probe, special, special), special);
  });
}
