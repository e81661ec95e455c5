// All that a training run can be told, spelled as LLaMA-Factory and transformers spell it, so that a user's file of today runs unchanged.
// What we do not have is refused by name; what has no meaning here is accepted and reported.
#pragma once
#include <filesystem>

#include "base/options.h"
#include "data/mix.h"
#include "optim/optimizer.h"
#include "train/schedule.h"

namespace thimble::train {

enum class Stage : uint8_t { sft, pt };
enum class Finetuning : uint8_t { lora, freeze, full };
enum class QuantType : uint8_t { nf4 };
enum class Optim : uint8_t { adamw, paged_adamw, adamw_8bit, paged_adamw_8bit, adamw_bf16, sgd, lion, paged_lion, lion_8bit, paged_lion_8bit, adafactor };
enum class When : uint8_t { no, steps, epoch };
enum class SaveWhen : uint8_t { no, steps, epoch, best };
enum class SavePin : uint8_t { automatic, keep, recompute, offload };  // of tensors between forward and backward; automatic: the plan decides
std::span<const Choice> names_of(Stage);
std::span<const Choice> names_of(Finetuning);
std::span<const Choice> names_of(QuantType);
std::span<const Choice> names_of(Optim);
std::span<const Choice> names_of(When);
std::span<const Choice> names_of(SaveWhen);
std::span<const Choice> names_of(SavePin);
std::span<const Choice> names_of(ScheduleKind);

// Names with values: a mapping in a file, its JSON on the command line.
struct Arguments {
  Json object = Json::object();
};
bool assign(Arguments&, const Json&);
Json shown(const Arguments&);
std::string type_name(const Arguments&);

// Where a run goes on from: nowhere, the newest whole checkpoint of output_dir, or the one named.
struct Resume {
  bool newest = false;
  std::string folder;
  explicit operator bool() const { return newest || !folder.empty(); }
};
bool assign(Resume&, const Json&);  // true, false, or a path
Json shown(const Resume&);
std::string type_name(const Resume&);

// Room on a disk, as "/scratch:200GiB".
struct DiskSpace {
  std::string folder;
  Bytes size;
  bool operator==(const DiskSpace&) const = default;
};
bool assign(DiskSpace&, const Json&);
Json shown(const DiskSpace&);
std::string type_name(const DiskSpace&);

struct TrainOptions {
  std::string model_name_or_path;
  std::optional<std::string> adapter_name_or_path;
  std::optional<int64_t> quantization_bit;
  QuantType quantization_type = QuantType::nf4;
  bool double_quantization = true;

  Stage stage = Stage::sft;
  Finetuning finetuning_type = Finetuning::lora;
  int64_t lora_rank = 8;
  std::optional<double> lora_alpha;  // 2 * rank, set by resolve()
  double lora_dropout = 0;
  std::vector<std::string> lora_target{"all"};
  bool use_rslora = false, use_dora = false;
  std::optional<double> loraplus_lr_ratio;
  std::vector<std::string> additional_target;
  int64_t freeze_trainable_layers = 2;
  std::vector<std::string> freeze_trainable_modules{"all"}, freeze_extra_modules;
  std::optional<double> neftune_noise_alpha;

  std::vector<std::string> dataset, eval_dataset;
  std::string dataset_dir = "data";
  double val_size = 0;  // below 1 a share, else a number of rows
  std::optional<std::string> template_name;
  int64_t cutoff_len = 2048;
  std::optional<bool> packing;  // true for stage pt, else false; set by resolve()
  bool neat_packing = false;
  bool train_on_prompt = false, mask_history = false;
  std::string default_system;
  std::optional<int64_t> max_samples;
  data::Mix mix_strategy = data::Mix::concat;
  std::vector<double> interleave_probs;
  std::optional<std::string> tokenized_path;
  bool overwrite_cache = false;
  bool disable_shuffling = false;

  int64_t per_device_train_batch_size = 8, per_device_eval_batch_size = 8, gradient_accumulation_steps = 1;
  double learning_rate = 5e-5, weight_decay = 0, adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8, max_grad_norm = 1.0;
  double num_train_epochs = 3;
  int64_t max_steps = -1;
  ScheduleKind lr_scheduler_type = ScheduleKind::linear;
  Arguments lr_scheduler_kwargs;
  double warmup_ratio = 0, warmup_steps = 0;  // steps below 1 are a ratio, as in transformers 5
  Optim optim = Optim::adamw;
  std::optional<std::string> optim_args;
  int64_t seed = 42;
  std::optional<int64_t> data_seed;
  std::optional<bool> bf16, fp16, pure_bf16;
  std::optional<bool> gradient_checkpointing;
  bool disable_gradient_checkpointing = false;

  std::string output_dir;
  bool overwrite_output_dir = false;
  int64_t logging_steps = 500;
  bool logging_first_step = true;  // a first line at once; transformers waits for logging_steps
  bool plot_loss = false;
  std::vector<std::string> report_to{"none"};
  std::optional<std::string> logging_dir;  // output_dir/runs where none, set by resolve()
  When eval_strategy = When::no;
  std::optional<int64_t> eval_steps;  // logging_steps where none, set by resolve()
  SaveWhen save_strategy = SaveWhen::steps;
  double save_steps = 500;  // below 1 a share of all steps
  std::optional<int64_t> save_total_limit;
  bool load_best_model_at_end = false;
  std::optional<std::string> metric_for_best_model;
  std::optional<bool> greater_is_better;
  Resume resume_from_checkpoint;

  std::optional<std::string> gpu;
  std::optional<Bytes> vram, ram;
  std::optional<DiskSpace> disk;
  std::optional<int64_t> threads;
  std::string device = "auto";
  bool deterministic = false;
  SavePin save = SavePin::automatic;
  std::optional<int64_t> resident_layers;

  template <class Self, class Visit>
  static void fields(Self& o, Visit&& visit) {
    visit("model_name_or_path", o.model_name_or_path, "folder of the base model");
    visit("adapter_name_or_path", o.adapter_name_or_path, "folder of an adapter to go on training");
    visit("quantization_bit", o.quantization_bit, "bits of the frozen base: 4, 8 (LLM.int8), or null for what the folder has");
    visit("quantization_type", o.quantization_type, "4-bit code");
    visit("double_quantization", o.double_quantization, "quantise the scales of 4-bit blocks too");
    visit("stage", o.stage, "sft: answers to prompts; pt: plain text");
    visit("finetuning_type", o.finetuning_type, "what is trained: adapters, some layers, or all weights");
    visit("lora_rank", o.lora_rank, "rank of the adapters");
    visit("lora_alpha", o.lora_alpha, "scale of the adapters is alpha / rank; null: 2 x rank");
    visit("lora_dropout", o.lora_dropout, "share of an adapter's input that a step leaves out");
    visit("lora_target", o.lora_target, "all; some of q_proj k_proj v_proj o_proj gate_proj up_proj down_proj (Phi-3: qkv_proj o_proj gate_up_proj down_proj); or expressions that whole module names match");
    visit("use_rslora", o.use_rslora, "scale by alpha / sqrt(rank)");
    visit("use_dora", o.use_dora, "train each matrix's magnitudes beside its adapter");
    visit("loraplus_lr_ratio", o.loraplus_lr_ratio, "LoRA+: learning rate of B over that of A");
    visit("additional_target", o.additional_target, "trained whole beside the adapters: embed_tokens, lm_head");
    visit("freeze_trainable_layers", o.freeze_trainable_layers, "of finetuning_type freeze: the last n layers are trained; below 0 the first ones");
    visit("freeze_trainable_modules", o.freeze_trainable_modules, "of these layers: all, or parts such as mlp and self_attn");
    visit("freeze_extra_modules", o.freeze_extra_modules, "and outside the layers: embed_tokens, norm, lm_head");
    visit("neftune_noise_alpha", o.neftune_noise_alpha, "size of NEFTune's noise on embeddings; null: none");
    visit("dataset", o.dataset, "training data: names of dataset_info.json, files or folders; name#500: so many of its examples");
    visit("eval_dataset", o.eval_dataset, "evaluation data, likewise");
    visit("dataset_dir", o.dataset_dir, "where dataset_info.json is, and files that are not found as they stand");
    visit("val_size", o.val_size, "part of the training rows to evaluate on: a share below 1, or a number of rows");
    visit("template", o.template_name, "chat template; null: the model folder's");
    visit("cutoff_len", o.cutoff_len, "tokens per sequence");
    visit("packing", o.packing, "several documents in one sequence, blind to each other; null: for stage pt");
    visit("neat_packing", o.neat_packing, "the same as packing: documents never see each other");
    visit("train_on_prompt", o.train_on_prompt, "loss on prompts too");
    visit("mask_history", o.mask_history, "of a conversation's answers only the last is learned");
    visit("default_system", o.default_system, "system message of conversations that bring none");
    visit("max_samples", o.max_samples, "rows taken of each dataset");
    visit("mix_strategy", o.mix_strategy, "several datasets: one after another, or by turns until the first or the last is used up");
    visit("interleave_probs", o.interleave_probs, "by which a turn is drawn, one for each dataset; none: in turn");
    visit("tokenized_path", o.tokenized_path, "folder where tokens are kept for later runs; null: the user's cache");
    visit("overwrite_cache", o.overwrite_cache, "tokenise again what is kept");
    visit("disable_shuffling", o.disable_shuffling, "rows in file order");
    visit("per_device_train_batch_size", o.per_device_train_batch_size, "sequences per micro-batch");
    visit("per_device_eval_batch_size", o.per_device_eval_batch_size, "sequences per batch of evaluation");
    visit("gradient_accumulation_steps", o.gradient_accumulation_steps, "micro-batches per optimizer step");
    visit("learning_rate", o.learning_rate, "peak learning rate");
    visit("weight_decay", o.weight_decay, "decoupled weight decay");
    visit("adam_beta1", o.adam_beta1, "decay of the first moment");
    visit("adam_beta2", o.adam_beta2, "decay of the second moment");
    visit("adam_epsilon", o.adam_epsilon, "added to the root of the second moment");
    visit("max_grad_norm", o.max_grad_norm, "gradients are clipped to this norm; 0: never");
    visit("num_train_epochs", o.num_train_epochs, "passes over the data");
    visit("max_steps", o.max_steps, "optimizer steps, instead of epochs; -1: by epochs");
    visit("lr_scheduler_type", o.lr_scheduler_type, "course of the learning rate");
    visit("lr_scheduler_kwargs", o.lr_scheduler_kwargs, "its arguments, as transformers names them: {min_lr: 1e-6}");
    visit("warmup_ratio", o.warmup_ratio, "share of the steps with a rising rate");
    visit("warmup_steps", o.warmup_steps, "steps with a rising rate, instead of a ratio; below 1 a ratio itself");
    visit("optim", o.optim, "optimizer; paged: its state lives in host memory, where the plan may put another's too");
    visit("optim_args", o.optim_args, "of sgd: momentum=0.9");
    visit("seed", o.seed, "of the adapters' start, of shuffling, and of what steps draw");
    visit("data_seed", o.data_seed, "of shuffling, mixing and val_size; null: seed");
    visit("bf16", o.bf16, "16-bit arithmetic; the device decides where it pays");
    visit("fp16", o.fp16, "arithmetic in f16 with dynamic loss scaling; what a GPU without bf16 does by itself");
    visit("pure_bf16", o.pure_bf16, "weights that are trained are kept in bf16, not f32, and rounded stochastically; adapters stay in f32");
    visit("gradient_checkpointing", o.gradient_checkpointing, "true: recompute all; false: recompute nothing; null: the plan decides");
    visit("disable_gradient_checkpointing", o.disable_gradient_checkpointing, "the same as gradient_checkpointing: false");
    visit("output_dir", o.output_dir, "folder for all that the run leaves");
    visit("overwrite_output_dir", o.overwrite_output_dir, "the folder may hold an earlier run");
    visit("logging_steps", o.logging_steps, "optimizer steps between lines of the log");
    visit("logging_first_step", o.logging_first_step, "a line after the first step");
    visit("plot_loss", o.plot_loss, "draw training_loss.png");
    visit("report_to", o.report_to, "tensorboard: event files; none: trainer_log.jsonl and trainer_state.json alone");
    visit("logging_dir", o.logging_dir, "folder of the event files; null: output_dir/runs");
    visit("eval_strategy", o.eval_strategy, "when to evaluate");
    visit("eval_steps", o.eval_steps, "optimizer steps between evaluations; null: logging_steps");
    visit("save_strategy", o.save_strategy, "when to save a checkpoint; steps and epoch: at the end too; best: when an evaluation is the best so far");
    visit("save_steps", o.save_steps, "optimizer steps between checkpoints; below 1 a share of all steps");
    visit("save_total_limit", o.save_total_limit, "checkpoints that are kept, the newest ones, and the best where it is loaded at the end; null: all");
    visit("load_best_model_at_end", o.load_best_model_at_end, "the result is the checkpoint that evaluated best, not the last step");
    visit("metric_for_best_model", o.metric_for_best_model, "what is best: loss, of the evaluation");
    visit("greater_is_better", o.greater_is_better, "of that metric: false");
    visit("resume_from_checkpoint", o.resume_from_checkpoint, "true: go on from the newest checkpoint of output_dir; or the folder of one");
    visit("gpu", o.gpu, "plan for a card by its name, such as rtx4090, whether it is here or not; null: this machine");
    visit("vram", o.vram, "memory of the device tier; null: what the machine has");
    visit("ram", o.ram, "host memory; null: what the machine has");
    visit("disk", o.disk, "room for frozen layers that fit nowhere else: a folder and a size, /scratch:200GiB; null: none");
    visit("device", o.device, "what computes: cpu, cuda, or auto for a GPU where there is one");
    visit("deterministic", o.deterministic, "the same bits in every run, at a price on a GPU");
    visit("threads", o.threads, "CPU threads; null: all");
    visit("save", o.save, "what forward leaves for backward, of every layer; auto: the plan decides");
    visit("resident_layers", o.resident_layers, "layers of the model on the device, the rest streams; auto: the plan decides");
  }

  Schedule schedule(int64_t total_steps) const;
  struct Rule { optim::OptimizerId id; bool paged; optim::Hyper hyper; };
  Rule optimizer() const;
  bool reports_to(std::string_view logger) const;
};

// Spellings of other tools, keys without effect here, keys that we know and do not have.
const Keys& train_keys();

struct ReadOptions {
  TrainOptions options;
  Given given;
};

// Reads a YAML or JSON file (none where the path is empty), then the overrides; resolves and validates. Throws Error (usage).
ReadOptions read_options(const std::filesystem::path& file, std::span<const std::string> arguments);
// The same, with one log line for the keys that have no effect.
TrainOptions read_train_options(const std::filesystem::path& file, std::span<const std::string> arguments);

void resolve(TrainOptions&);         // fills in what follows from other options
void validate(const TrainOptions&);  // ranges and contradictions; looks at no file
void require_for_run(const TrainOptions&);  // model, data and a place to write are named: planning can do without, a run cannot

// Optimizer steps between checkpoints of a run of so many.
int64_t save_interval(const TrainOptions&, int64_t total_steps);
// Makes output_dir, or checks that it is a folder that can be written and holds no earlier run but the one that is resumed.
void prepare_output_dir(const TrainOptions&);

}  // namespace thimble::train
