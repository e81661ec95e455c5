// Data files to tokens: rows are read, brought to one form, tokenised in parallel, cut to length, and counted, in blocks of a few MiB whatever
// the size of the files. The order of the examples is that of the rows, whatever the number of threads.
#pragma once
#include <functional>

#include "data/chat.h"
#include "data/examples.h"
#include "data/sources.h"

namespace thimble::data {

enum class Stage { pretrain, sft };  // whole texts, or answers

struct DatasetOptions {
  Stage stage = Stage::sft;
  int64_t cutoff_len = 2048;  // tokens of an example at most
  bool packing = false;       // pretrain: texts are joined and cut into examples of exactly cutoff_len tokens
  bool train_on_prompt = false, mask_history = false;
  std::string default_system{};  // of conversations that bring none
  int64_t max_samples = -1;      // rows of a source at most; -1: all
};

struct DatasetReport {
  std::string form;  // as found, one for each kind of file
  int64_t rows = 0, examples = 0;
  int64_t tokens = 0, trained_tokens = 0;  // of the examples; those that are predicted
  int64_t truncated = 0;                   // examples that lost their end to cutoff_len
  int64_t longest = 0;                     // in tokens, before cutting
  std::vector<int64_t> lengths;            // rows of 2^i to 2^(i+1) - 1 tokens, before cutting
  std::map<std::string, int64_t> dropped;  // rows by reason
  std::string first_dropped;               // file:line
};
Json to_json(const DatasetReport&);
DatasetReport report_of(const Json&, std::string_view where);

using Sink = std::function<void(std::span<const int32_t> ids, std::span<const uint8_t> learned)>;
using OnBadRow = std::function<void(const Error&)>;

// Hands each example to `sink`. Throws Error (bad_input), naming file and line, where a file is damaged or changes meanwhile, and at the first
// row that is damaged or of another form than the first, unless `on_bad_row` takes it.
DatasetReport tokenize(const Source&, const Tokenizer&, const Chat&, const DatasetOptions&, const Sink& sink, const OnBadRow& on_bad_row = {});

// Where tokens are kept, by the content of what makes them: the files' bytes, the options, and `maker`, which names tokenizer and template.
struct TokenCache {
  fs::path folder;
  std::string maker;
  bool overwrite = false;
};

struct Dataset {
  Examples examples;
  DatasetReport report;
  bool from_cache = false;
};

// The source's tokens, from the cache where they are there. Throws like tokenize(), and where nothing remains to train on.
Dataset read_dataset(const Source&, const Tokenizer&, const Chat&, const DatasetOptions&, const TokenCache&);

// Of the files of a model's folder that decide what its tokenizer and template make of a text.
std::string fingerprint_of_tokenizer(const fs::path& folder);

}  // namespace thimble::data
