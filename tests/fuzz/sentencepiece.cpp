// tokenizer.model of SentencePiece: a file that opens must also encode and decode.
#include "data/sentencepiece_file.h"
#include "data/tokenizer.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thimble;
  return fuzz::take_or_refuse([&] {
    Json config;
    auto file = data::parse_sentencepiece(fuzz::text(data, size), "tokenizer.model", config);
    const data::Tokenizer tokenizer(std::move(file), config);
    for (const bool special : {true, false})
      tokenizer.decode(tokenizer.encode("Hi  wörld\t① ﷺ e\u0301 ▁<s>🙂\n ", special, special), special);
  });
}
