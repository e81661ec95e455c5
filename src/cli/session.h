// A model that answers: folder, adapter, tokenizer and engine together, for generate, chat and eval.
#pragma once
#include "cli/commands.h"
#include "data/chat.h"
#include "data/tokenizer.h"
#include "models/registry.h"
#include "serve/fit.h"

namespace thimble::cli {

struct SessionOptions {
  std::string model, adapter, quantization, head = "dense", device = "auto";  // quantization: as the folder has it where empty
  std::optional<int64_t> threads;
  int64_t context = 1024, sequences = 1;
  bool all_logits = true;  // see EngineShape
  std::optional<std::string> vram;
};
void add_session_options(CLI::App&, SessionOptions&);

// serve::fit on this machine. Where a card does not hold all weights, its processor's speed is asked too.
serve::Fit fit_here(DeviceSpec, const serve::EngineShape&, const plan::Budget&);

class Session {
 public:
  explicit Session(const SessionOptions&);
  data::Tokenizer& tokenizer() { return *tokenizer_; }
  const data::Chat& chat() const { return *chat_; }
  serve::Engine& engine() { return *engine_; }
  const std::vector<int32_t>& ends() const { return ends_; }
  const serve::Sampling& sampling() const { return sampling_; }  // what the model's folder says
  int64_t context() const { return shape_.context; }
  const plan::Outcome& outcome() const { return outcome_; }

 private:
  serve::EngineShape shape_;
  plan::Outcome outcome_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  std::unique_ptr<data::Chat> chat_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<comm::Rank> rank_;
  std::unique_ptr<serve::Engine> engine_;
  std::vector<int32_t> ends_;
  serve::Sampling sampling_;
};

}  // namespace thimble::cli
