// Data files to examples: rows are read, brought to one form, tokenised in parallel, cut to length, and counted.
// The order of the examples is that of the rows, whatever the number of threads.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "data/chat.h"
#include "data/examples.h"

namespace thimble::data {

enum class Stage { pretrain, sft };  // whole texts, or answers

struct DatasetOptions {
  Stage stage = Stage::sft;
  int64_t cutoff_len = 2048;  // tokens of an example at most
  bool packing = false;       // pretrain: texts are joined and cut into examples of exactly cutoff_len tokens
  bool train_on_prompt = false, mask_history = false;
  std::string default_system;  // of conversations that bring none
  int64_t max_samples = -1;    // rows of each file at most; -1: all
};

struct DatasetReport {
  std::string form;  // as found, one for each kind of file
  int64_t rows = 0, examples = 0;
  int64_t tokens = 0, trained_tokens = 0;  // of the examples; those that are predicted
  int64_t truncated = 0;                   // examples that lost their end to cutoff_len
  int64_t longest = 0;                     // in tokens, before cutting
  std::map<std::string, int64_t> dropped;  // rows by reason
  std::string first_dropped;               // file:line
};

struct Dataset {
  Examples examples;
  DatasetReport report;
};

// Throws Error (bad_input), naming file and line, at the first row that is damaged or of another form than the first; and where
// nothing remains to train on.
Dataset read_dataset(std::span<const fs::path> files, const Tokenizer&, const Chat&, const DatasetOptions&);

}  // namespace thimble::data
