// Reading, resolving and checking a run's options. The keys of other tools stand in foreign_keys.cpp.
#include "train/options.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/file.h"
#include "base/log.h"
#include "device/catalogue.h"

namespace thimble::train {
namespace {

constexpr Choice stage_names[] = {{"sft", int(Stage::sft)}, {"pt", int(Stage::pt)}};
constexpr Choice finetuning_names[] = {{"lora", int(Finetuning::lora)}, {"freeze", int(Finetuning::freeze)}, {"full", int(Finetuning::full)}};
constexpr Choice quant_names[] = {{"nf4", int(QuantType::nf4)}};
constexpr Choice optim_names[] = {{"adamw_torch", int(Optim::adamw)},           {"adamw_torch_fused", int(Optim::adamw)},
                                  {"adamw", int(Optim::adamw)},                 {"adamw_hf", int(Optim::adamw)},
                                  {"adamw_8bit", int(Optim::adamw_8bit)},       {"adamw_bnb_8bit", int(Optim::adamw_8bit)},
                                  {"paged_adamw_32bit", int(Optim::paged_adamw)}, {"paged_adamw", int(Optim::paged_adamw)},
                                  {"paged_adamw_8bit", int(Optim::paged_adamw_8bit)}, {"adamw_bf16", int(Optim::adamw_bf16)},
                                  {"adamw_anyprecision", int(Optim::adamw_bf16)}, {"sgd", int(Optim::sgd)},
                                  {"lion_32bit", int(Optim::lion)},               {"lion", int(Optim::lion)},
                                  {"paged_lion_32bit", int(Optim::paged_lion)},   {"paged_lion", int(Optim::paged_lion)},
                                  {"lion_8bit", int(Optim::lion_8bit)},           {"paged_lion_8bit", int(Optim::paged_lion_8bit)},
                                  {"adafactor", int(Optim::adafactor)}};
constexpr Choice when_names[] = {{"no", int(When::no)}, {"steps", int(When::steps)}, {"epoch", int(When::epoch)},
                                 {"none", int(When::no)}, {"false", int(When::no)}};
constexpr Choice save_when_names[] = {{"no", int(SaveWhen::no)},     {"steps", int(SaveWhen::steps)}, {"epoch", int(SaveWhen::epoch)},
                                      {"best", int(SaveWhen::best)}, {"none", int(SaveWhen::no)},     {"false", int(SaveWhen::no)}};
constexpr Choice save_names[] = {{"auto", int(SavePin::automatic)}, {"keep", int(SavePin::keep)},
                                 {"recompute", int(SavePin::recompute)}, {"offload", int(SavePin::offload)}};
constexpr Choice schedule_names[] = {{"linear", int(ScheduleKind::linear)},
                                     {"cosine", int(ScheduleKind::cosine)},
                                     {"cosine_with_restarts", int(ScheduleKind::cosine_with_restarts)},
                                     {"cosine_with_min_lr", int(ScheduleKind::cosine_with_min_lr)},
                                     {"cosine_warmup_with_min_lr", int(ScheduleKind::cosine_warmup_with_min_lr)},
                                     {"constant", int(ScheduleKind::constant)},
                                     {"constant_with_warmup", int(ScheduleKind::constant_with_warmup)},
                                     {"polynomial", int(ScheduleKind::polynomial)},
                                     {"inverse_sqrt", int(ScheduleKind::inverse_sqrt)},
                                     {"warmup_stable_decay", int(ScheduleKind::warmup_stable_decay)},
                                     {"wsd", int(ScheduleKind::warmup_stable_decay)}};
constexpr std::string_view loggers[] = {"none", "all", "tensorboard"};
constexpr std::string_view services[] = {"wandb", "swanlab", "mlflow", "trackio", "comet_ml", "clearml", "neptune", "codecarbon", "dagshub", "flyte", "dvclive", "azure_ml"};
constexpr std::string_view projections[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj"};

void expect(bool ok, std::string_view key, std::string_view expected, std::string found, std::string fix = "") {
  if (ok) return;
  throw Error(Fault::usage, {.what = fmt::format("bad value of '{}'", key), .where = std::string(key), .expected = std::string(expected),
                             .found = std::move(found), .fix = std::move(fix)});
}
void expect_at_least(int64_t value, int64_t least, std::string_view key) {
  expect(value >= least, key, fmt::format("at least {}", least), fmt::format("{}", value));
}
void expect_between(double value, double least, double most, std::string_view key) {
  expect(value >= least && value <= most, key, fmt::format("a number from {} to {}", least, most), fmt::format("{}", value));  // false for NaN
}
void expect_not_negative(double value, std::string_view key) {
  expect(std::isfinite(value) && value >= 0, key, "a finite number, not negative", fmt::format("{}", value));
}
void contradiction(bool is, std::string what, std::string fix) {
  if (is) throw Error(Fault::usage, {.what = std::move(what), .fix = std::move(fix)});
}

// One of lr_scheduler_kwargs.
void set_argument(Schedule& s, const std::string& key, const Json& value) {
  constexpr std::string_view name = "lr_scheduler_kwargs";
  const auto number = [&](double least) {
    expect(value.is_number() && value.get<double>() >= least && std::isfinite(value.get<double>()), name, fmt::format("a number from {} on for {}", least, key), value.dump());
    return value.get<double>();
  };
  const auto ramp = [&] {
    const std::string text = value.is_string() ? value.get<std::string>() : "";
    expect(text == "linear" || text == "cosine" || text == "1-sqrt", name, key + ": linear, cosine or 1-sqrt", value.dump());
    return text == "linear" ? Ramp::linear : text == "cosine" ? Ramp::cosine : Ramp::one_minus_root;
  };
  using enum ScheduleKind;
  const auto of = [&](std::initializer_list<ScheduleKind> kinds) {
    expect(std::find(kinds.begin(), kinds.end(), s.kind) != kinds.end(), name, fmt::format("arguments of lr_scheduler_type {}", spelling(schedule_names, int(s.kind))), key);
  };
  if (key == "num_cycles") of({cosine, cosine_with_restarts, cosine_with_min_lr, cosine_warmup_with_min_lr, warmup_stable_decay}), s.cycles = number(0);
  else if (key == "min_lr") of({cosine_with_min_lr, cosine_warmup_with_min_lr}), s.least = number(0) / s.peak;
  else if (key == "min_lr_rate") of({cosine_with_min_lr, cosine_warmup_with_min_lr}), s.least = number(0);
  else if (key == "warmup_lr_rate") of({cosine_warmup_with_min_lr}), s.warmup_from = number(0);
  else if (key == "min_lr_ratio") of({warmup_stable_decay}), s.least = number(0);
  else if (key == "lr_end") of({polynomial}), s.end = number(0);
  else if (key == "power") of({polynomial}), s.power = number(0);
  else if (key == "timescale") of({inverse_sqrt}), s.timescale = int64_t(number(1));
  else if (key == "num_stable_steps") of({warmup_stable_decay}), s.stable = int64_t(number(0));
  else if (key == "num_decay_steps") of({warmup_stable_decay}), s.decay = int64_t(number(0));
  else if (key == "warmup_type") of({warmup_stable_decay}), s.rise = ramp();
  else if (key == "decay_type") of({warmup_stable_decay}), s.fall = ramp();
  else of({});
}

// Of optim_args, "momentum=0.9": what SGD takes; 0 where it is not given.
double momentum_of(const TrainOptions& o) {
  if (!o.optim_args || o.optim_args->empty()) return 0;
  constexpr std::string_view start = "momentum=";
  std::string text = *o.optim_args;
  std::erase(text, ' ');
  double momentum = -1;
  const bool read = text.starts_with(start) && thimble::assign(momentum, resolve_scalar(std::string_view(text).substr(start.size())));
  expect(read && momentum >= 0 && momentum < 1, "optim_args", "momentum=M with M from 0 to below 1", *o.optim_args);
  expect(o.optim == Optim::sgd, "optim_args", "nothing, but for optim: sgd", *o.optim_args);
  return momentum;
}

void validate_method(const TrainOptions& o) {
  contradiction(o.bf16.value_or(false) && o.fp16.value_or(false), "bf16 and fp16 together", "leave one out: fp16 is for GPUs that have no bf16");
  if (o.quantization_bit) {
    expect(*o.quantization_bit == 4 || *o.quantization_bit == 8, "quantization_bit", "4 or 8, or null for 16-bit weights", fmt::format("{}", *o.quantization_bit));
    contradiction(o.finetuning_type == Finetuning::full, "quantization_bit with finetuning_type full: packed weights cannot be trained",
                  "finetuning_type: lora trains adapters on the packed base; or leave out quantization_bit");
  }
  const bool adapters = o.finetuning_type == Finetuning::lora;
  contradiction(!adapters && o.adapter_name_or_path.has_value(), "adapter_name_or_path with another finetuning_type than lora", "use finetuning_type: lora to go on with an adapter, or leave out adapter_name_or_path");
  expect(o.lora_rank >= 1 && o.lora_rank <= 4096, "lora_rank", "1 to 4096", fmt::format("{}", o.lora_rank));
  if (o.lora_alpha) expect(std::isfinite(*o.lora_alpha) && *o.lora_alpha > 0, "lora_alpha", "a positive number", fmt::format("{}", *o.lora_alpha));
  expect(o.lora_dropout >= 0 && o.lora_dropout < 1, "lora_dropout", "from 0 to below 1", fmt::format("{}", o.lora_dropout));
  if (o.loraplus_lr_ratio)
    expect(std::isfinite(*o.loraplus_lr_ratio) && *o.loraplus_lr_ratio > 0, "loraplus_lr_ratio", "a positive number", fmt::format("{}", *o.loraplus_lr_ratio));
  if (o.neftune_noise_alpha) expect_not_negative(*o.neftune_noise_alpha, "neftune_noise_alpha");
  const auto only_lora = [&](bool given, std::string_view key) { contradiction(given && !adapters, fmt::format("{} without adapters", key), "finetuning_type: lora"); };
  only_lora(o.use_dora, "use_dora");
  only_lora(o.loraplus_lr_ratio.has_value(), "loraplus_lr_ratio");
  only_lora(!o.additional_target.empty(), "additional_target");
  expect(o.freeze_trainable_layers != 0, "freeze_trainable_layers", "a number of layers, from the end, or below 0 from the beginning", "0");
  expect(!o.freeze_trainable_modules.empty(), "freeze_trainable_modules", "all, or parts of a layer", "nothing");
  expect(!o.lora_target.empty(), "lora_target", "all, or a list of projections", "nothing");
  for (const auto& t : o.lora_target) {
    const bool all = t == "all" || t == "all-linear";
    const bool expression = t.find_first_of("*+?|()[]\\^$.") != t.npos;  // or a longer name: what it fits the model says
    expect(all || expression || std::find(std::begin(projections), std::end(projections), t) != std::end(projections), "lora_target",
           "all, or some of q_proj k_proj v_proj o_proj gate_proj up_proj down_proj; of Phi-3 qkv_proj o_proj gate_up_proj down_proj", t, [&] {
             const auto close = nearest(t, projections);
             return close.empty() ? std::string() : fmt::format("did you mean '{}'?", close);
           }());
    contradiction(all && o.lora_target.size() > 1, "lora_target names 'all' and more", "lora_target: all");
  }
}

void validate_data(const TrainOptions& o) {
  expect(o.cutoff_len >= 2 && o.cutoff_len <= (int64_t{1} << 24), "cutoff_len", "2 to 16777216", fmt::format("{}", o.cutoff_len));
  if (o.max_samples) expect_at_least(*o.max_samples, 1, "max_samples");
  expect(std::isfinite(o.val_size) && o.val_size >= 0 && (o.val_size < 1 || o.val_size == std::floor(o.val_size)), "val_size",
         "a share below 1, or a number of rows", fmt::format("{}", o.val_size));
  contradiction(o.val_size > 0 && !o.eval_dataset.empty(), "val_size and eval_dataset both name what to evaluate on", "leave out one of them");
  contradiction(o.eval_strategy != When::no && o.val_size == 0 && o.eval_dataset.empty(), "eval_strategy without anything to evaluate on",
                "name an eval_dataset, or val_size: 0.1, or eval_strategy: no");
  contradiction(o.train_on_prompt && o.mask_history, "train_on_prompt learns everything, mask_history the last answer alone", "leave out one of them");
  contradiction(!o.interleave_probs.empty() && o.mix_strategy == data::Mix::concat, "interleave_probs, and mix_strategy does not interleave",
                "mix_strategy: interleave_under, or leave out interleave_probs");
  contradiction(!o.interleave_probs.empty() && o.interleave_probs.size() != o.dataset.size(),
                fmt::format("{} interleave_probs for {} datasets", o.interleave_probs.size(), o.dataset.size()), "one number for each dataset");
  for (const double p : o.interleave_probs) expect(std::isfinite(p) && p > 0, "interleave_probs", "numbers above 0", fmt::format("{}", p));
  contradiction(o.neat_packing && o.packing == false, "neat_packing: true with packing: false", "leave out one of them");
}

void validate_steps(const TrainOptions& o) {
  expect_at_least(o.per_device_train_batch_size, 1, "per_device_train_batch_size");
  expect_at_least(o.per_device_eval_batch_size, 1, "per_device_eval_batch_size");
  expect_at_least(o.gradient_accumulation_steps, 1, "gradient_accumulation_steps");
  expect_not_negative(o.learning_rate, "learning_rate");
  expect_not_negative(o.weight_decay, "weight_decay");
  expect_not_negative(o.max_grad_norm, "max_grad_norm");
  expect(o.adam_beta1 >= 0 && o.adam_beta1 < 1, "adam_beta1", "from 0 to below 1", fmt::format("{}", o.adam_beta1));
  expect(o.adam_beta2 >= 0 && o.adam_beta2 < 1, "adam_beta2", "from 0 to below 1", fmt::format("{}", o.adam_beta2));
  expect(std::isfinite(o.adam_epsilon) && o.adam_epsilon > 0, "adam_epsilon", "a positive number", fmt::format("{}", o.adam_epsilon));
  expect(o.max_steps == -1 || o.max_steps >= 1, "max_steps", "at least 1, or -1 to count epochs", fmt::format("{}", o.max_steps));
  expect(std::isfinite(o.num_train_epochs) && o.num_train_epochs > 0, "num_train_epochs", "a positive number", fmt::format("{}", o.num_train_epochs));
  expect_between(o.warmup_ratio, 0, 1, "warmup_ratio");
  expect(std::isfinite(o.warmup_steps) && o.warmup_steps >= 0 && (o.warmup_steps < 1 || o.warmup_steps == std::floor(o.warmup_steps)), "warmup_steps",
         "a number of steps, or a share below 1", fmt::format("{}", o.warmup_steps));
  contradiction(o.max_steps > 0 && o.warmup_steps > double(o.max_steps), fmt::format("warmup_steps {} is more than max_steps {}", o.warmup_steps, o.max_steps),
                "lower warmup_steps, or use warmup_ratio");
  const Json& given = o.lr_scheduler_kwargs.object;
  contradiction(given.contains("min_lr") && given.contains("min_lr_rate"), "lr_scheduler_kwargs names both min_lr and min_lr_rate", "leave out one of them");
  const Schedule schedule = o.schedule(std::max<int64_t>(1, o.max_steps));  // and its arguments
  contradiction(schedule.kind == ScheduleKind::polynomial && schedule.end >= o.learning_rate, "lr_end is not below learning_rate", "a smaller lr_end in lr_scheduler_kwargs");
  contradiction((schedule.kind == ScheduleKind::cosine_with_min_lr || schedule.kind == ScheduleKind::cosine_warmup_with_min_lr) && schedule.least == 0,
                "a schedule down to a least rate that is not given", "lr_scheduler_kwargs: {min_lr_rate: 0.1}");
  momentum_of(o);
  expect_at_least(o.seed, 0, "seed");
  if (o.data_seed) expect_at_least(*o.data_seed, 0, "data_seed");
  expect_at_least(o.logging_steps, 1, "logging_steps");
  if (o.eval_steps) expect_at_least(*o.eval_steps, 1, "eval_steps");
  for (const auto& r : o.report_to) {
    const bool service = std::find(std::begin(services), std::end(services), r) != std::end(services);
    expect(service || std::find(std::begin(loggers), std::end(loggers), r) != std::end(loggers), "report_to", "none, tensorboard, or all", r);
  }
}

void validate_saving(const TrainOptions& o) {
  const bool is_share = o.save_steps < 1;
  expect(std::isfinite(o.save_steps) && o.save_steps > 0 && (is_share || o.save_steps == std::floor(o.save_steps)), "save_steps",
         "a number of steps, or a share below 1", fmt::format("{}", o.save_steps));
  if (o.save_total_limit) expect_at_least(*o.save_total_limit, 1, "save_total_limit");
  if (o.metric_for_best_model)
    expect(*o.metric_for_best_model == "loss" || *o.metric_for_best_model == "eval_loss", "metric_for_best_model", "loss, or eval_loss",
           *o.metric_for_best_model, "the evaluation's loss is what runs are compared by here");
  contradiction(o.greater_is_better == true, "greater_is_better: true, and the metric is a loss", "leave it out");
  const bool best = o.load_best_model_at_end || o.save_strategy == SaveWhen::best;
  contradiction(best && o.eval_strategy == When::no, "what is best only an evaluation says, and eval_strategy is no", "eval_strategy: steps, or epoch");
  if (!o.load_best_model_at_end || o.save_strategy == SaveWhen::best) return;
  contradiction((o.save_strategy == SaveWhen::steps) != (o.eval_strategy == When::steps) || o.save_strategy == SaveWhen::no,
                "load_best_model_at_end with save_strategy and eval_strategy that differ", "the same strategy for both, or save_strategy: best");
  const int64_t eval_steps = o.eval_steps.value_or(o.logging_steps);
  contradiction(o.save_strategy == SaveWhen::steps && (is_share || int64_t(o.save_steps) % eval_steps != 0),
                fmt::format("load_best_model_at_end with save_steps {} that are no multiple of eval_steps {}", o.save_steps, eval_steps),
                "save_steps: a multiple of eval_steps, or save_strategy: best");
}

void validate_plan(const TrainOptions& o) {
  const auto expect_bytes = [](const std::optional<Bytes>& b, std::string_view key) {
    if (b) expect(b->count > 0, key, "a size above 0, such as 24GiB", fmt::format("{}", b->count));
  };
  expect_bytes(o.vram, "vram");
  expect_bytes(o.ram, "ram");
  if (o.disk) expect(o.disk->size.count > 0, "disk", "a folder and a size above 0, such as /scratch:200GiB", shown(*o.disk).get<std::string>());
  if (o.threads) expect(*o.threads >= 1 && *o.threads <= 1024, "threads", "1 to 1024", fmt::format("{}", *o.threads));
  if (o.resident_layers) expect_at_least(*o.resident_layers, 0, "resident_layers");
  if (o.gpu && !find_gpu(*o.gpu)) {
    std::vector<std::string_view> names;
    std::string all;
    for (const Gpu& g : gpus()) names.push_back(g.key), all += fmt::format(" {}", g.key);
    const auto close = nearest(*o.gpu, names);
    expect(false, "gpu", "one of" + all, *o.gpu, close.empty() ? "" : fmt::format("did you mean '{}'?", close));
  }
  const bool recompute = o.gradient_checkpointing == true, never = o.disable_gradient_checkpointing || o.gradient_checkpointing == false;
  contradiction(recompute && o.disable_gradient_checkpointing, "gradient_checkpointing: true with disable_gradient_checkpointing: true",
                "leave out one of them");
  contradiction(recompute && (o.save == SavePin::keep || o.save == SavePin::offload), "gradient_checkpointing: true recomputes, and `save` says otherwise",
                "leave out one of them");
  contradiction(never && o.save == SavePin::recompute, "save: recompute with gradient checkpointing turned off", "leave out one of them");
}

// The same error, with the place where the key was set in the stead of its name.
Error placed(const Error& e, const Given& given, const std::string& file) {
  Problem p = e.problem();
  const auto at = given.where.find(p.where);
  p.where = at != given.where.end() ? at->second : p.where.empty() ? file : file + ", by default";
  return Error(e.fault(), std::move(p));
}

}  // namespace

std::span<const Choice> names_of(Stage) { return stage_names; }
std::span<const Choice> names_of(Finetuning) { return finetuning_names; }
std::span<const Choice> names_of(QuantType) { return quant_names; }
std::span<const Choice> names_of(Optim) { return optim_names; }
std::span<const Choice> names_of(When) { return when_names; }
std::span<const Choice> names_of(SaveWhen) { return save_when_names; }
std::span<const Choice> names_of(SavePin) { return save_names; }
std::span<const Choice> names_of(ScheduleKind) { return schedule_names; }

bool assign(Arguments& a, const Json& v) {
  if (means_nothing(v)) return a = {}, true;
  const Json object = v.is_string() ? Json::parse(v.get<std::string>(), nullptr, false) : v;
  if (!object.is_object()) return false;
  return a = {object}, true;
}
Json shown(const Arguments& a) { return a.object; }
std::string type_name(const Arguments&) { return "names with values, such as {min_lr: 1e-6}"; }

bool assign(Resume& r, const Json& v) {
  if (means_nothing(v) || v == false) return r = {}, true;
  if (v == true) return r = {.newest = true}, true;
  std::string folder;
  if (!thimble::assign(folder, v) || folder.empty()) return false;
  return r = {.folder = std::move(folder)}, true;
}
Json shown(const Resume& r) { return r.newest ? Json(true) : r.folder.empty() ? Json(nullptr) : Json(r.folder); }
std::string type_name(const Resume&) { return "true | false, or the folder of a checkpoint"; }

bool assign(DiskSpace& d, const Json& v) {
  std::string text;
  if (!thimble::assign(text, v)) return false;
  const size_t colon = text.rfind(':');  // a folder's name may have one
  DiskSpace space;
  if (colon == text.npos || colon == 0 || !thimble::assign(space.size, Json(text.substr(colon + 1)))) return false;
  space.folder = text.substr(0, colon);
  return d = std::move(space), true;
}
Json shown(const DiskSpace& d) { return fmt::format("{}:{}", d.folder, d.size.count); }
std::string type_name(const DiskSpace&) { return "a folder and a size, such as /scratch:200GiB"; }

Schedule TrainOptions::schedule(int64_t total_steps) const {
  const bool is_share = warmup_steps > 0 && warmup_steps < 1;
  Schedule s{.kind = lr_scheduler_type, .peak = learning_rate,
             .warmup = train::warmup_steps(int64_t(warmup_steps), is_share ? warmup_steps : warmup_ratio, total_steps), .total = total_steps};
  if (s.kind == ScheduleKind::cosine_with_restarts) s.cycles = 1;
  if (s.warmup > 0) s.timescale = s.warmup;
  // As LLaMA-Factory has it, a third of the steps after the warm-up is stable.
  const int64_t rest = std::max<int64_t>(0, total_steps - s.warmup);
  s.stable = rest / 3, s.decay = rest - s.stable;
  const Json& given = lr_scheduler_kwargs.object;
  if (given.contains("num_decay_steps") && !given.contains("num_stable_steps")) s.stable = std::max<int64_t>(0, rest - int64_t(given["num_decay_steps"].get<double>()));
  for (const auto& [key, value] : given.items()) set_argument(s, key, value);
  return s;
}

bool TrainOptions::reports_to(std::string_view logger) const {
  return std::any_of(report_to.begin(), report_to.end(), [&](const auto& r) { return r == logger || r == "all"; });
}

TrainOptions::Rule TrainOptions::optimizer() const {
  optim::Hyper hyper{.beta1 = float(adam_beta1), .beta2 = float(adam_beta2), .eps = float(adam_epsilon), .momentum = float(momentum_of(*this))};
  switch (optim) {
    case Optim::adamw: return {optim::OptimizerId::adamw, false, hyper};
    case Optim::paged_adamw: return {optim::OptimizerId::adamw, true, hyper};
    case Optim::adamw_8bit: return {optim::OptimizerId::adamw_8bit, false, hyper};
    case Optim::paged_adamw_8bit: return {optim::OptimizerId::adamw_8bit, true, hyper};
    case Optim::adamw_bf16: return {optim::OptimizerId::adamw_bf16, false, hyper};
    case Optim::sgd: return {hyper.momentum > 0 ? optim::OptimizerId::sgd_momentum : optim::OptimizerId::sgd, false, hyper};
    case Optim::lion: return {optim::OptimizerId::lion, false, hyper};
    case Optim::paged_lion: return {optim::OptimizerId::lion, true, hyper};
    case Optim::lion_8bit: return {optim::OptimizerId::lion_8bit, false, hyper};
    case Optim::paged_lion_8bit: return {optim::OptimizerId::lion_8bit, true, hyper};
    case Optim::adafactor: return {optim::OptimizerId::adafactor, false, hyper};
  }
  return {};
}

void resolve(TrainOptions& o) {
  if (!o.lora_alpha) o.lora_alpha = 2.0 * double(o.lora_rank);
  if (o.neat_packing && !o.packing) o.packing = true;
  if (!o.packing) o.packing = o.stage == Stage::pt;
  if (!o.eval_steps) o.eval_steps = o.logging_steps;
  if (!o.logging_dir && !o.output_dir.empty()) o.logging_dir = (fs::path(o.output_dir) / "runs").string();
  if (o.lora_target.size() == 1 && o.lora_target[0] == "all-linear") o.lora_target[0] = "all";
}

void validate(const TrainOptions& o) {
  validate_method(o);
  validate_data(o);
  validate_steps(o);
  validate_saving(o);
  validate_plan(o);
}

ReadOptions read_options(const std::filesystem::path& file, std::span<const std::string> arguments) {
  ReadOptions read;
  const auto fields = fields_of(read.options);
  std::vector<Assignment> list;
  if (!file.empty()) {
    const std::string text = read_text(file, int64_t{2} << 20);
    const Yaml yaml = file.extension() == ".json" ? Yaml{parse_json(text, file.string(), 32), {}} : parse_yaml(text, file.string());
    list = assignments(yaml, file.string());
  }
  for (auto& a : overrides(arguments, fields, train_keys())) list.push_back(std::move(a));
  read.given = set_fields(fields, train_keys(), list);
  try {
    validate(read.options);
  } catch (const Error& e) {
    throw placed(e, read.given, file.empty() ? "command line" : file.string());
  }
  resolve(read.options);
  return read;
}

TrainOptions read_train_options(const std::filesystem::path& file, std::span<const std::string> arguments) {
  ReadOptions read = read_options(file, arguments);
  std::string ignored;
  for (const auto& i : read.given.ignored) ignored += "\n  " + i;
  for (const auto& r : read.options.report_to)
    if (std::find(std::begin(services), std::end(services), r) != std::end(services))
      ignored += fmt::format("\n  report_to: {} (nothing is sent anywhere: trainer_log.jsonl and tensorboard's event files hold the same numbers)", r);
  if (!ignored.empty()) log_info("accepted, without effect here:{}", ignored);
  return std::move(read.options);
}

void require_for_run(const TrainOptions& o) {
  const auto need = [](bool there, std::string_view key, std::string example) {
    if (!there) throw Error(Fault::usage, {.what = fmt::format("'{}' is not given", key), .fix = fmt::format("add `{}: {}`", key, example)});
  };
  need(!o.model_name_or_path.empty(), "model_name_or_path", "path/to/model");
  need(!o.dataset.empty(), "dataset", "path/to/data.jsonl");
  need(!o.output_dir.empty(), "output_dir", "runs/my-run");
}

int64_t save_interval(const TrainOptions& o, int64_t total_steps) {
  return o.save_steps < 1 ? std::max<int64_t>(1, int64_t(std::ceil(o.save_steps * double(total_steps)))) : int64_t(o.save_steps);
}

void prepare_output_dir(const TrainOptions& o) {
  const fs::path dir = o.output_dir;
  std::error_code error;
  const auto fail = [&](std::string what, std::string found, std::string fix) {
    return Error(Fault::usage, {.what = std::move(what), .where = "output_dir: " + o.output_dir, .found = std::move(found), .fix = std::move(fix)});
  };
  if (fs::exists(dir, error) && !fs::is_directory(dir, error)) throw fail("output_dir is not a folder", "a file", "name another output_dir");
  fs::create_directories(dir, error);
  if (error) throw fail("cannot make output_dir", error.message(), "name another output_dir");
  if (::access(dir.c_str(), W_OK | X_OK) != 0) throw fail("output_dir cannot be written", "no permission", "name another output_dir");
  const bool empty = fs::is_empty(dir, error);
  if (error) throw fail("output_dir cannot be read", error.message(), "name another output_dir");
  const Resume& from = o.resume_from_checkpoint;
  const bool resumed = from.newest || (!from.folder.empty() && fs::equivalent(fs::absolute(fs::path(from.folder) / "..").lexically_normal(), dir, error));
  if (!empty && !o.overwrite_output_dir && !resumed)
    throw fail("output_dir is not empty", "an earlier run, or other files",
               "resume_from_checkpoint: true to go on with it, overwrite_output_dir: true, or another output_dir");
}

}  // namespace thimble::train
