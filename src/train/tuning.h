// From what a user asked for, or what an adapter's folder says, to what is trained of a model: names of modules become matrices of layers.
#pragma once
#include "nn/model.h"
#include "store/adapter_files.h"
#include "train/options.h"

namespace thimble::train {

struct Tuning {
  nn::ModelSpec model;           // as it is computed with: whoever trains embedding or head beside adapters has two tables, as in PEFT
  nn::Method method;
  store::AdapterConfig adapter;  // of LoRA: as it is written, its targets named one by one
};

// Throws Error (usage) where a name fits nothing. An adapter that is gone on with brings its own rank, targets and the like.
Tuning tuning_of(const nn::ModelSpec&, const TrainOptions&);
// An adapter folder's, on a base in `format`. Frozen: for inference. Throws Error (bad_input).
Tuning tuning_of(const nn::ModelSpec&, const store::AdapterConfig&, quant::FormatId format, bool frozen);

}  // namespace thimble::train
