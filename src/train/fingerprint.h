// Short names of large things, so that a resumed run can tell whether its base and its data are those it began with.
#pragma once
#include <string>

#include "base/file.h"
#include "data/examples.h"

namespace thimble::train {

// Of every token and target, in order: the files, the tokenizer, the template and what was cut are all in it.
std::string fingerprint(const data::Examples&);
// Of config.json and, of each file of weights, its size and pieces of it: reading all of a large model would take minutes.
std::string fingerprint_of_model(const fs::path& folder);

}  // namespace thimble::train
