// Planned like a training run: rehearsed on a phantom, refused when it does not fit, then reserved exactly.
#include "cli/session.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <tuple>

#include "base/log.h"
#include "cli/calibration.h"
#include "cli/run_plan.h"
#include "train/tuning.h"

namespace thimble::cli {
namespace {

// Weights that are read beside other work, which is looked at before each tensor, so that its fault does not wait for all of them.
class ReadBeside final : public store::WeightSource {
 public:
  ReadBeside(const store::WeightSource& of, std::function<void()> look) : of_(of), look_(std::move(look)) {}
  bool has(const std::string& name) const override { return of_.has(name); }
  void read(const std::string& name, int64_t row, Tensor to) const override { look_(), of_.read(name, row, to); }
  void read_part(const std::string& name, int part, int64_t first, Tensor to) const override { look_(), of_.read_part(name, part, first, to); }

 private:
  const store::WeightSource& of_;
  std::function<void()> look_;
};

}  // namespace

void add_session_options(CLI::App& c, SessionOptions& o) {
  c.add_option("--model", o.model, "folder of the base model")->required();
  c.add_option("--adapter", o.adapter, "folder of a PEFT adapter");
  c.add_option("--quantization", o.quantization, "hold the layers' matrices as dense, nf4, nf4_dq or int8; otherwise as the folder does");
  c.add_option("--head", o.head, "hold the head, and an embedding that is tied to it, as dense, nf4, nf4_dq or int8");
  c.add_option("--device", o.device, "what computes: cpu, cuda, or auto for a GPU where there is one");
  c.add_option("--threads", o.threads, "CPU threads")->check(CLI::Range(1, 4096));
  c.add_option("--context", o.context, "tokens of prompt and answer at most")->check(CLI::Range(int64_t{2}, int64_t{1} << 22));
  c.add_option("--vram", o.vram, "memory of the device tier, such as 8GiB");
}

serve::Fit fit_here(DeviceSpec spec, const serve::EngineShape& shape, const plan::Budget& budget) {
  auto found = serve::fit(spec, shape, budget);
  if (spec.kind == DeviceKind::cpu || !plan::fits(found.outcome, budget) || serve::describe(found.shape).empty()) return found;
  spec.processor = processor_that_multiplies(shape.method.format);
  return serve::fit(spec, shape, budget);
}

Session::Session(const SessionOptions& o) {
  const DeviceSpec spec = machine(o.device, o.threads);
  const nn::ModelSpec model = models::read_model(o.model);
  shape_ = {.model = model, .method = {.format = o.quantization.empty() ? model.stored.format : quant::format(o.quantization).id}, .context = o.context,
            .prefill_chunk = std::min<int64_t>(o.all_logits ? 128 : 512, o.context), .sequences = o.sequences, .all_logits = o.all_logits};
  std::vector<std::string> saved;  // modules that the adapter holds whole
  if (!o.adapter.empty()) {
    const auto config = store::read_adapter_config(o.adapter);
    store::warn_of_other_base(config, o.model);
    auto tuning = train::tuning_of(shape_.model, config, shape_.method.format, true);
    shape_.model = std::move(tuning.model);
    shape_.method = std::move(tuning.method);
    saved = std::move(tuning.adapter.modules_to_save);
  }
  shape_.method.head = quant::format(o.head).id;
  auto texts = std::async(std::launch::async, [&] {  // while the plan is made and weights are read
    auto tokenizer = data::Tokenizer::open(o.model);
    auto chat = data::Chat::open(o.model, *tokenizer);
    return std::pair(std::move(tokenizer), std::move(chat));
  });
  const plan::Budget budget{.device = device_budget(spec, o.vram ? std::optional(parse_bytes(*o.vram, "--vram")) : std::nullopt), .ram = available_bytes()};
  auto found = fit_here(spec, shape_, budget);
  shape_ = std::move(found.shape);
  outcome_ = found.outcome;
  if (const auto how = serve::describe(shape_); !how.empty() && plan::fits(outcome_, budget))
    log_info("{}: {:.1f} tokens/s predicted", how, double(shape_.sequences) / outcome_.window_seconds);
  if (!plan::fits(outcome_, budget) || (spec.kind == DeviceKind::cpu && outcome_.device() + outcome_.ram() > budget.ram))
    throw Error(Fault::does_not_fit, {.what = "the model and its cache do not fit", .where = o.model,
                                      .expected = fmt::format("at most {} of the device and {} of RAM", human_bytes(budget.device), human_bytes(budget.ram)),
                                      .found = fmt::format("{} and {}", human_bytes(outcome_.device()), human_bytes(outcome_.ram())),
                                      .fix = "a shorter --context, or --quantization nf4_dq"});
  ends_ = models::end_tokens(o.model, shape_.model.vocab);
  sampling_ = serve::read_sampling(o.model);
  device_ = open_device(spec);
  rank_ = std::make_unique<comm::Rank>(*device_, comm::Capacity{outcome_.peak[0], outcome_.peak[1], outcome_.peak[2]});
  engine_ = std::make_unique<serve::Engine>(*rank_, shape_);
  const auto take_texts = [&] {
    if (!texts.valid()) return;
    std::tie(tokenizer_, chat_) = texts.get();
    for (const auto& id : {tokenizer_->eos(), chat_->end_of_turn()})
      if (id && std::find(ends_.begin(), ends_.end(), *id) == ends_.end()) ends_.push_back(*id);
  };
  try {
    const auto base = store::open_weights(o.model);
    const auto& table = engine_->model().weights().table();
    std::optional<store::AdapterFile> adapter;
    if (!o.adapter.empty()) adapter.emplace(o.adapter, store::tensors_of_adapter(engine_->model().adapters(), table, saved));
    const auto source = store::adapted_weights(*base, adapter ? &*adapter : nullptr);
    source->check_table(table);
    const ReadBeside beside(*source, [&] {
      if (texts.valid() && texts.wait_for(std::chrono::seconds(0)) == std::future_status::ready) take_texts();
    });
    engine_->load(&beside);
    if (adapter) engine_->load_adapters([&](const store::ParamSpec& p, Tensor to) { adapter->read(p, to); });
  } catch (const Error&) {
    take_texts();  // a fault there is told first, whichever was found first
    throw;
  }
  take_texts();
  rank_->ledger.record(false);
}

}  // namespace thimble::cli
