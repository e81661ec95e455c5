// A run's data: the entries of `dataset`, tokenised or found as tokenised before, mixed, split and laid out in micro-batches.
#pragma once
#include "data/batches.h"
#include "data/dataset.h"
#include "train/options.h"

namespace thimble::cli {

struct RunData {
  data::Batches training, evaluation;
};

data::DatasetOptions dataset_options(const train::TrainOptions&);
// Of micro-batches of so many rows. Says in the log what was read, what was dropped, and what was cut.
RunData read_run_data(const train::TrainOptions&, const data::Tokenizer&, int64_t rows);

}  // namespace thimble::cli
