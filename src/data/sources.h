// Where the rows of an entry of `dataset` come from, and what they look like: a file or folder, or an entry of dataset_info.json as
// LLaMA-Factory's users have it (github.com/hiyouga/LLaMA-Factory, data/README.md).
#pragma once
#include "data/row_format.h"
#include "data/rows.h"

namespace thimble::data {

struct Source {
  std::string name;               // as in `dataset`, without "#N"
  std::vector<fs::path> files;
  std::optional<Layout> layout;   // where dataset_info.json says it; else found from the first row of each file
  int64_t samples = -1;           // examples to choose of it, by "#N" or num_samples: fewer than there are, or some repeated; -1: all
  std::vector<std::string> notes; // what dataset_info.json says and has no effect
};

// "name", "path" or either with "#N" behind it: an entry of folder/dataset_info.json; else a file or folder, as it stands or in `folder`,
// with or without its ending. Throws Error (bad_input) where there is none, or where its description cannot be followed.
Source find_source(const std::string& entry, const fs::path& folder);

}  // namespace thimble::data
