// What was trained, as other programs load it: an adapter in PEFT's layout, or a model folder; with the tokenizer of the base.
#pragma once
#include "base/file.h"
#include "train/options.h"
#include "train/trainer.h"

namespace thimble::train {

// Each file is whole or not there. Returns what was written.
std::vector<WrittenFile> write_trained(const fs::path& folder, const TrainOptions&, const Setup&, Trainer&);
inline constexpr const char *adapter_file = "adapter_model.safetensors", *model_file = "model.safetensors";

fs::path base_folder(const TrainOptions&);  // of the base model's files
// Trained values are f32 or bf16 by their own names; whether the files above hold fewer bits, or several as one.
bool loses_bits(const Setup&);

}  // namespace thimble::train
