// A run's options: files as LLaMA-Factory's users have them, and everything that such a file can get wrong.
#include "train/options.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "base/file.h"

namespace thimble::train {
namespace {

class TrainOptionsTest : public testing::Test {
 protected:
  TrainOptionsTest() : dir(fs::temp_directory_path() / ("thimble-options-" + std::to_string(::getpid()))) { fs::create_directories(dir); }
  ~TrainOptionsTest() override { fs::remove_all(dir); }
  fs::path put(const char* name, std::string_view text) const {
    std::ofstream(dir / name, std::ios::binary) << text;
    return dir / name;
  }
  ReadOptions read(std::string_view text, std::vector<std::string> arguments = {}) const { return read_options(put("run.yaml", text), arguments); }
  Problem refusal(std::string_view text, std::vector<std::string> arguments = {}) const {
    try {
      read(text, std::move(arguments));
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::usage) << e.what();
      return e.problem();
    }
    ADD_FAILURE() << "accepted: " << text;
    return {};
  }
  fs::path dir;
};

// The shape of LLaMA-Factory's examples/train_lora and train_qlora files.
constexpr std::string_view their_file = R"(### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
quantization_bit: 4  # choices: [8 (bnb/hqq/eetq), 4 (bnb/hqq), 3 (hqq), 2 (hqq)]
quantization_method: bnb  # choices: [bnb, hqq, eetq]
double_quantization: false
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_target: all

### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 4096
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null

### eval
# eval_dataset: alpaca_en_demo
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
)";

TEST_F(TrainOptionsTest, AFileOfLlamaFactoryRunsUnchanged) {
  const ReadOptions r = read(their_file);
  const TrainOptions& o = r.options;
  EXPECT_EQ(o.model_name_or_path, "meta-llama/Meta-Llama-3-8B-Instruct");
  EXPECT_EQ(o.quantization_bit, 4);
  EXPECT_FALSE(o.double_quantization);
  EXPECT_EQ(o.stage, Stage::sft);
  EXPECT_EQ(o.finetuning_type, Finetuning::lora);
  EXPECT_EQ(o.lora_rank, 16);
  EXPECT_EQ(o.lora_alpha, 32) << "derived";
  EXPECT_EQ(o.dataset, (std::vector<std::string>{"identity", "alpaca_en_demo"}));
  EXPECT_EQ(o.template_name, "llama3");
  EXPECT_EQ(o.cutoff_len, 4096);
  EXPECT_EQ(o.packing, false);
  EXPECT_EQ(o.max_samples, 1000);
  EXPECT_EQ(o.learning_rate, 1e-4);
  EXPECT_EQ(o.num_train_epochs, 3);
  EXPECT_EQ(o.lr_scheduler_type, ScheduleKind::cosine);
  EXPECT_EQ(o.eval_strategy, When::steps);
  EXPECT_EQ(o.eval_steps, 500);
  EXPECT_TRUE(o.plot_loss && o.overwrite_output_dir);
  std::vector<std::string> ignored;
  for (const auto& note : r.given.ignored) ignored.push_back(note.substr(0, note.find(' ')));
  EXPECT_EQ(ignored, (std::vector<std::string>{"quantization_method", "trust_remote_code", "do_train", "preprocessing_num_workers", "dataloader_num_workers",
                                               "ddp_timeout"}));
  EXPECT_EQ(o.save_strategy, SaveWhen::steps);
  EXPECT_EQ(o.save_steps, 500);
  EXPECT_FALSE(o.resume_from_checkpoint);
  const Schedule s = o.schedule(201);
  EXPECT_EQ(s.warmup, 21);
  EXPECT_EQ(s.total, 201);
}

TEST_F(TrainOptionsTest, DefaultsAreTheirs) {
  const TrainOptions o = read("").options;
  const Json record = to_json(o);
  EXPECT_EQ(record.dump(),
            R"({"model_name_or_path":"","adapter_name_or_path":null,"quantization_bit":null,"quantization_type":"nf4","double_quantization":true,"stage":"sft",)"
            R"("finetuning_type":"lora","lora_rank":8,"lora_alpha":16.0,"lora_dropout":0.0,"lora_target":["all"],"use_rslora":false,"use_dora":false,"loraplus_lr_ratio":null,"additional_target":[],"freeze_trainable_layers":2,)"
            R"("freeze_trainable_modules":["all"],"freeze_extra_modules":[],"neftune_noise_alpha":null,"dataset":[],"eval_dataset":[],)"
            R"("dataset_dir":"data","val_size":0.0,"template":null,"cutoff_len":2048,"packing":false,"neat_packing":false,"train_on_prompt":false,"mask_history":false,)"
            R"("default_system":"","max_samples":null,"mix_strategy":"concat","interleave_probs":[],"tokenized_path":null,"overwrite_cache":false,"disable_shuffling":false,"per_device_train_batch_size":8,"per_device_eval_batch_size":8,"gradient_accumulation_steps":1,"learning_rate":5e-05,)"
            R"("weight_decay":0.0,"adam_beta1":0.9,"adam_beta2":0.999,"adam_epsilon":1e-08,"max_grad_norm":1.0,"num_train_epochs":3.0,"max_steps":-1,)"
            R"("lr_scheduler_type":"linear","lr_scheduler_kwargs":{},"warmup_ratio":0.0,"warmup_steps":0.0,"optim":"adamw_torch","optim_args":null,"seed":42,"data_seed":null,"bf16":null,"fp16":null,"pure_bf16":null,)"
            R"("gradient_checkpointing":null,"disable_gradient_checkpointing":false,"output_dir":"","overwrite_output_dir":false,"logging_steps":500,)"
            R"("logging_first_step":true,"plot_loss":false,"report_to":["none"],"logging_dir":null,"eval_strategy":"no","eval_steps":500,"save_strategy":"steps","save_steps":500.0,)"
            R"("save_total_limit":null,"load_best_model_at_end":false,"metric_for_best_model":null,"greater_is_better":null,"resume_from_checkpoint":null,"gpu":null,"vram":null,"ram":null,"disk":null,"device":"auto","deterministic":false,"threads":null,"save":"auto",)"
            R"("resident_layers":null})");
}

TEST_F(TrainOptionsTest, TheRecordReadsBackAsTheSameRun) {
  const auto o = read(their_file, {"vram=24GiB", "save=offload", "resident_layers=3", "lora_target=q_proj,v_proj", "optim=adamw_bnb_8bit"}).options;
  const auto record = to_json(o).dump(2);
  EXPECT_EQ(to_json(read_options(put("args.json", record), {}).options).dump(2), record);
  EXPECT_EQ(o.optim, Optim::adamw_8bit);
  EXPECT_EQ(o.vram->count, int64_t{24} << 30);
  EXPECT_FALSE(o.disk.has_value());
  const auto disk = read(their_file, {"disk=/a:b/scratch:1.5GiB"}).options.disk;
  ASSERT_TRUE(disk.has_value());
  EXPECT_EQ(disk->folder, "/a:b/scratch");
  EXPECT_EQ(disk->size.count, int64_t{3} << 29);
  EXPECT_EQ(read(their_file, {"disk=" + shown(*disk).get<std::string>()}).options.disk, disk);
  EXPECT_EQ(o.save, SavePin::offload);
}

TEST_F(TrainOptionsTest, NamesOfOtherToolsMeanTheSame) {
  const auto o = read("model: m\ntrain_type: full\nmax_length: 99\nval_dataset: v.jsonl\nevaluation_strategy: epoch\noptim: adamw_torch_fused\n").options;
  EXPECT_EQ(o.model_name_or_path, "m");
  EXPECT_EQ(o.finetuning_type, Finetuning::full);
  EXPECT_EQ(o.cutoff_len, 99);
  EXPECT_EQ(o.eval_dataset, (std::vector<std::string>{"v.jsonl"}));
  EXPECT_EQ(o.eval_strategy, When::epoch);
  EXPECT_EQ(o.optim, Optim::adamw);
  EXPECT_EQ(read("target_modules: all-linear\nr: 4").options.lora_target, (std::vector<std::string>{"all"}));
  EXPECT_EQ(read("bnb_4bit_use_double_quant: false").options.double_quantization, false);
}

TEST_F(TrainOptionsTest, DerivedValues) {
  EXPECT_EQ(read("stage: pt").options.packing, true);
  EXPECT_EQ(read("stage: pt\npacking: false").options.packing, false);
  EXPECT_EQ(read("neat_packing: true").options.packing, true);
  EXPECT_EQ(read("logging_steps: 7").options.eval_steps, 7);
  EXPECT_EQ(read("lora_alpha: 5").options.lora_alpha, 5);
  EXPECT_EQ(read("warmup_steps: 5\nwarmup_ratio: 0.5").options.schedule(100).warmup, 5);
  EXPECT_EQ(read("warmup_steps: 0.25").options.schedule(100).warmup, 25);
}

TEST_F(TrainOptionsTest, NoTwoTablesNameOneKey) {
  TrainOptions o;
  std::set<std::string> seen, fields;
  for (const auto& f : fields_of(o)) EXPECT_TRUE(seen.insert(f.key).second) << f.key;
  fields = seen;
  const Keys& k = train_keys();
  for (const auto& a : k.aliases) {
    EXPECT_TRUE(seen.insert(std::string(a.key)).second) << a.key;
    EXPECT_TRUE(fields.contains(std::string(a.means))) << a.means;
  }
  for (const auto& n : k.ignored) EXPECT_TRUE(seen.insert(std::string(n.key)).second) << n.key;
  for (const auto& n : k.refused) EXPECT_TRUE(seen.insert(std::string(n.key)).second) << n.key;
  for (const auto& v : k.refused_values) EXPECT_TRUE(fields.contains(std::string(v.key))) << v.key;
  EXPECT_GT(seen.size(), 200u);
}

// What LLaMA-Factory's users may have in a file, key by key, and the other tools' names: each does something, is accepted with a word, or is
// refused with one.
constexpr std::string_view their_keys =
    "model_name_or_path adapter_name_or_path adapter_folder cache_dir model_revision trust_remote_code use_fast_tokenizer resize_vocab split_special_tokens add_tokens "
    "add_special_tokens low_cpu_mem_usage rope_scaling flash_attn enable_liger_kernel disable_gradient_checkpointing use_reentrant_gc upcast_layernorm infer_backend "
    "infer_dtype offload_folder use_kv_cache hf_hub_token print_param_status quantization_bit quantization_method quantization_type double_quantization "
    "quantization_device_map stage do_train finetuning_type lora_rank lora_alpha lora_dropout lora_target additional_target loraplus_lr_ratio use_rslora use_dora "
    "pissa_init create_new_adapter freeze_trainable_layers freeze_trainable_modules pref_beta pref_ftx pref_loss ref_model simpo_gamma kto_chosen_weight "
    "kto_rejected_weight pure_bf16 use_galore galore_rank galore_target galore_scale use_apollo apollo_rank use_badam badam_mode use_muon use_adam_mini "
    "neftune_noise_alpha early_stopping_steps compute_accuracy disable_shuffling plot_loss include_effective_tokens_per_second freeze_vision_tower template dataset "
    "eval_dataset dataset_dir media_dir cutoff_len train_on_prompt mask_history streaming buffer_size mix_strategy interleave_probs overwrite_cache "
    "preprocessing_num_workers max_samples val_size eval_on_each_dataset packing neat_packing tool_format default_system enable_thinking preserve_thinking "
    "tokenized_path ignore_pad_token_for_loss output_dir overwrite_output_dir per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm num_train_epochs max_steps lr_scheduler_type lr_scheduler_kwargs warmup_ratio "
    "warmup_steps optim optim_args optim_target_modules bf16 fp16 tf32 seed data_seed full_determinism logging_steps logging_first_step logging_dir log_level "
    "logging_nan_inf_filter report_to run_name project disable_tqdm save_strategy save_steps save_total_limit save_only_model save_on_each_node "
    "enable_jit_checkpoint resume_from_checkpoint ignore_data_skip eval_strategy evaluation_strategy eval_steps eval_on_start load_best_model_at_end "
    "metric_for_best_model greater_is_better do_eval do_predict predict_with_generate dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor "
    "dataloader_drop_last group_by_length remove_unused_columns label_smoothing_factor gradient_checkpointing gradient_checkpointing_kwargs torch_empty_cache_steps "
    "auto_find_batch_size ddp_timeout ddp_backend deepspeed fsdp torch_compile use_liger_kernel include_num_input_tokens_seen average_tokens_across_devices "
    "push_to_hub export_dir export_size export_device export_quantization_bit export_quantization_dataset export_quantization_nsamples export_quantization_maxlen "
    "export_legacy_format do_sample temperature top_p top_k num_beams max_new_tokens repetition_penalty length_penalty skip_special_tokens model adapters "
    "target_modules r max_length max_seq_length max_model_len system val_dataset split_dataset_ratio dataset_num_proc torch_dtype tuner_type train_type attn_impl "
    "use_peft load_in_4bit load_in_8bit bnb_4bit_quant_type bnb_4bit_compute_dtype bnb_4bit_use_double_quant ";

TEST_F(TrainOptionsTest, EveryKeyOfTheirsIsKnown) {
  TrainOptions o;
  std::set<std::string_view> known;
  const auto fields = fields_of(o);
  for (const auto& f : fields) known.insert(f.key);
  const Keys& k = train_keys();
  for (const auto& a : k.aliases) known.insert(a.key);
  for (const auto& n : k.ignored) known.insert(n.key);
  for (const auto& n : k.refused) known.insert(n.key);
  for (size_t at = 0, end; (end = their_keys.find(' ', at)) != their_keys.npos; at = end + 1)
    EXPECT_TRUE(known.contains(their_keys.substr(at, end - at))) << their_keys.substr(at, end - at);
}

TEST_F(TrainOptionsTest, SeveralDatasets) {
  const auto o = read("dataset: a, b#500\nmix_strategy: interleave_over\ninterleave_probs: 0.7,0.3\nsystem: be brief\nstreaming: true\nbuffer_size: 100").options;
  EXPECT_EQ(o.dataset, (std::vector<std::string>{"a", "b#500"}));
  EXPECT_EQ(o.mix_strategy, data::Mix::over);
  EXPECT_EQ(o.interleave_probs, (std::vector<double>{0.7, 0.3}));
  EXPECT_EQ(o.default_system, "be brief");
  EXPECT_EQ(read("dataset: a,b\nmix_strategy: interleave_once\ninterleave_probs: [1, 2.5]").options.interleave_probs, (std::vector<double>{1, 2.5}));
}

TEST_F(TrainOptionsTest, EveryRefusedValueIsRefusedByName) {
  for (const auto& v : train_keys().refused_values) {
    const Problem p = refusal(fmt::format("{}: {}", v.key, v.value));
    EXPECT_EQ(p.what, fmt::format("'{}: {}' is not available", v.key, v.value));
    EXPECT_EQ(p.fix, v.why);
  }
}

TEST_F(TrainOptionsTest, EveryRefusedKeyIsRefusedByNameUnlessItSaysNo) {
  for (const auto& r : train_keys().refused) {
    const Problem p = refusal(fmt::format("seed: 1\n{}: 0.5\n", r.key));
    EXPECT_EQ(p.what, fmt::format("'{}' is not available", r.key));
    EXPECT_EQ(p.where, (dir / "run.yaml").string() + ":2");
    EXPECT_NO_THROW(read(fmt::format("{}: null", r.key)));
    EXPECT_NO_THROW(read(fmt::format("{}: false", r.key)));
  }
}

TEST_F(TrainOptionsTest, ValuesOutOfRangeNameTheirLine) {
  const Problem p = refusal("seed: 1\n\nlearning_rate: -1e-4\n");
  EXPECT_EQ(p.what, "bad value of 'learning_rate'");
  EXPECT_EQ(p.where, (dir / "run.yaml").string() + ":3");
  EXPECT_EQ(p.expected, "a finite number, not negative");
  EXPECT_EQ(p.found, "-0.0001");
  EXPECT_EQ(refusal("", {"learning_rate=-1"}).where, "command line");
  for (const char* bad : {"learning_rate: .nan", "learning_rate: .inf", "learning_rate: 1e999", "weight_decay: -1", "adam_beta1: 1", "adam_beta2: -0.1", "adam_beta1: .nan",
                          "adam_epsilon: 0", "max_grad_norm: .nan", "per_device_train_batch_size: 0", "per_device_eval_batch_size: -1", "gradient_accumulation_steps: 0",
                          "max_steps: 0", "max_steps: -2", "num_train_epochs: 0", "num_train_epochs: .nan", "warmup_ratio: 1.5", "warmup_ratio: .nan", "warmup_steps: -1",
                          "warmup_steps: 1.5", "warmup_steps: .nan", "logging_steps: 0", "eval_steps: 0", "seed: -1", "data_seed: -1", "mix_strategy: shake", "interleave_probs: often", "cutoff_len: 0", "cutoff_len: 1e12", "max_samples: 0",
                          "val_size: -0.1", "val_size: 1.5", "val_size: .nan", "lora_rank: 0", "lora_rank: 100000", "lora_alpha: .nan", "lora_alpha: 0", "lora_dropout: 1", "lora_dropout: .nan", "loraplus_lr_ratio: 0",
                          "freeze_trainable_layers: 0", "neftune_noise_alpha: -1", "report_to: paper", "optim_args: momentum=2", "lr_scheduler_kwargs: 3",
                          "lora_target: query", "lora_target: all, q_proj", "lora_target: []", "quantization_bit: 3", "quantization_bit: 5", "vram: 0", "vram: 3 parsecs", "disk: 200GiB", "disk: 200", "disk: /scratch", "disk: '/scratch:much'", "disk: ':1GiB'", "disk: '/scratch:0'",
                          "ram: -1", "threads: 0", "resident_layers: -1", "save_steps: 0", "save_steps: -5", "save_steps: many", "save_steps: 1.5", "save_steps: .inf", "save_total_limit: 0",
                          "save_strategy: often", "metric_for_best_model: rouge", "greater_is_better: true", "resume_from_checkpoint: 3"}) {
    const auto key = std::string_view(bad).substr(0, std::string_view(bad).find(':'));
    const Problem q = refusal(bad);
    EXPECT_NE(q.what.find(key), std::string::npos) << bad << " gave: " << q.what;
  }
}

TEST_F(TrainOptionsTest, MethodsOptimizersAndLoggersByTheirNames) {
  const auto o = read("use_dora: true\nmodules_to_save: [lm_head]\nloraplus_lr_ratio: 16\nreport_to: tensorboard, wandb\noutput_dir: out/x\n"
                      "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs:\n  min_lr_rate: 0.1\noptim: sgd\noptim_args: momentum=0.9").options;
  EXPECT_TRUE(o.use_dora && o.reports_to("tensorboard"));
  EXPECT_EQ(o.additional_target, (std::vector<std::string>{"lm_head"}));
  EXPECT_EQ(o.schedule(10).least, 0.1);
  EXPECT_EQ(o.optimizer().id, optim::OptimizerId::sgd_momentum);
  EXPECT_EQ(o.optimizer().hyper.momentum, 0.9f);
  EXPECT_EQ(o.logging_dir, "out/x/runs");
  EXPECT_EQ(read("", {R"(lr_scheduler_kwargs={"power": 2})", "lr_scheduler_type=polynomial"}).options.schedule(10).power, 2);
  for (const auto& [name, id] : {std::pair{"adamw_bnb_8bit", optim::OptimizerId::adamw_8bit}, {"adafactor", optim::OptimizerId::adafactor}, {"lion_32bit", optim::OptimizerId::lion},
                                 {"paged_lion_32bit", optim::OptimizerId::lion}, {"paged_lion_8bit", optim::OptimizerId::lion_8bit}, {"adamw_torch_fused", optim::OptimizerId::adamw}, {"sgd", optim::OptimizerId::sgd}})
    EXPECT_EQ(read(fmt::format("optim: {}", name)).options.optimizer().id, id) << name;
  for (const char* bad : {"use_dora: true\nfinetuning_type: full", "finetuning_type: freeze\nadapter_name_or_path: x", "optim_args: momentum=0.9",
                          "lr_scheduler_type: cosine_with_min_lr", "lr_scheduler_kwargs:\n  power: 2"})
    refusal(bad);
}

TEST_F(TrainOptionsTest, WhereARunGoesOnFrom) {
  for (const char* none : {"null", "false", "none"}) EXPECT_FALSE(read(fmt::format("resume_from_checkpoint: {}", none)).options.resume_from_checkpoint) << none;
  EXPECT_TRUE(read("resume_from_checkpoint: true").options.resume_from_checkpoint.newest);
  EXPECT_TRUE(read("", {"resume_from_checkpoint=true"}).options.resume_from_checkpoint.newest);
  const Resume named = read("", {"resume_from_checkpoint=out/checkpoint-3"}).options.resume_from_checkpoint;
  EXPECT_EQ(named.folder, "out/checkpoint-3");
  EXPECT_FALSE(named.newest);
}

TEST_F(TrainOptionsTest, TheBestCheckpointNeedsEvaluationsBesideSaves) {
  const std::string set = "val_size: 2\nload_best_model_at_end: true\n";
  EXPECT_NO_THROW(read(set + "eval_strategy: steps\neval_steps: 10\nsave_steps: 20"));
  EXPECT_NO_THROW(read(set + "eval_strategy: epoch\nsave_strategy: epoch"));
  EXPECT_NO_THROW(read(set + "eval_strategy: epoch\nsave_strategy: best"));
  for (const char* bad : {"", "eval_strategy: epoch", "eval_strategy: steps\nsave_strategy: epoch", "eval_strategy: epoch\nsave_strategy: no",
                          "eval_strategy: steps\neval_steps: 10\nsave_steps: 15", "eval_strategy: steps\neval_steps: 10\nsave_steps: 0.1"})
    EXPECT_NE(refusal(set + bad).fix, "") << bad;
  EXPECT_NE(refusal("save_strategy: best").fix, "");
}

TEST_F(TrainOptionsTest, WordsThatAreNoBooleansAreExplained) {
  const Problem p = refusal("plot_loss: yes\n");
  EXPECT_EQ(p.expected, "true | false");
  EXPECT_EQ(p.found, "\"yes\"");
  EXPECT_EQ(p.fix, "write true");
}

TEST_F(TrainOptionsTest, ContradictionsAreRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {"quantization_bit: 4\nfinetuning_type: full", "quantization_bit"},
      {"adapter_name_or_path: a\nfinetuning_type: full", "adapter_name_or_path"},
      {"val_size: 0.1\neval_dataset: e.jsonl", "val_size"},
      {"eval_strategy: steps", "eval_strategy"},
      {"neat_packing: true\npacking: false", "packing"},
      {"train_on_prompt: true\nmask_history: true", "mask_history"},
      {"dataset: a,b\ninterleave_probs: 0.5,0.5", "interleave_probs"},
      {"dataset: a,b\nmix_strategy: interleave_under\ninterleave_probs: 1", "1 interleave_probs for 2 datasets"},
      {"max_steps: 10\nwarmup_steps: 11", "warmup_steps 11 is more than max_steps 10"},
      {"gradient_checkpointing: true\ndisable_gradient_checkpointing: true", "gradient_checkpointing"},
      {"gradient_checkpointing: true\nsave: keep", "save"},
      {"disable_gradient_checkpointing: true\nsave: recompute", "save"},
      {"model: a\nmodel_name_or_path: b", "two names"},
  };
  for (const auto& [text, words] : cases) {
    const Problem p = refusal(text);
    EXPECT_NE(p.what.find(words), std::string::npos) << p.what;
    EXPECT_FALSE(p.fix.empty()) << text;
    EXPECT_NE(p.where.find("run.yaml"), std::string::npos) << text;
  }
  EXPECT_NO_THROW(read("max_steps: 10\nwarmup_steps: 10"));
  EXPECT_NO_THROW(read("eval_strategy: steps\nval_size: 5"));
}

TEST_F(TrainOptionsTest, OneKindOfHalfPrecision) {
  EXPECT_NE(refusal("fp16: true\nbf16: true").what.find("bf16 and fp16"), std::string::npos);
  EXPECT_NO_THROW(read("fp16: false\nbf16: true\npure_bf16: true"));
  EXPECT_TRUE(read("fp16: true").options.fp16.value());
}

TEST_F(TrainOptionsTest, UnknownKeysNameTheNearest) {
  EXPECT_EQ(refusal("learning_rat: 1").fix, "did you mean 'learning_rate'?");
  EXPECT_EQ(refusal("lora_alfa: 1").fix, "did you mean 'lora_alpha'?");
  EXPECT_EQ(refusal("", {"--cutof-len", "5"}).fix, "did you mean 'cutoff_len'?");
}

TEST_F(TrainOptionsTest, BrokenFilesAreRefused) {
  EXPECT_THROW(read_options(dir / "absent.yaml", {}), Error);
  EXPECT_THROW(read_options(dir, {}), Error);
  EXPECT_THROW(read_options(put("broken.json", "{"), {}), Error);
  refusal("- a\n");
  refusal("a: &x 1\n");
  refusal("seed: 1\nseed: 2\n");
}

TEST_F(TrainOptionsTest, ARunNeedsModelDataAndAPlace) {
  const auto missing = [&](std::string_view text) {
    try {
      require_for_run(read(text).options);
    } catch (const Error& e) {
      return e.problem().what;
    }
    return std::string("nothing");
  };
  EXPECT_EQ(missing(""), "'model_name_or_path' is not given");
  EXPECT_EQ(missing("model: m"), "'dataset' is not given");
  EXPECT_EQ(missing("model: m\ndataset: d"), "'output_dir' is not given");
  EXPECT_EQ(missing("model: m\ndataset: d\noutput_dir: o"), "nothing");
}

TEST_F(TrainOptionsTest, TheOutputFolderIsMadeOrChecked) {
  TrainOptions o;
  o.output_dir = dir / "deep" / "run $(x) '";
  EXPECT_NO_THROW(prepare_output_dir(o));
  EXPECT_TRUE(fs::is_directory(o.output_dir));
  EXPECT_NO_THROW(prepare_output_dir(o)) << "an empty folder will do";
  std::ofstream(fs::path(o.output_dir) / "trainer_log.jsonl") << "x";
  EXPECT_THROW(prepare_output_dir(o), Error);
  o.overwrite_output_dir = true;
  EXPECT_NO_THROW(prepare_output_dir(o));
  o.output_dir = put("a-file", "x");
  EXPECT_THROW(prepare_output_dir(o), Error);
  o.output_dir = fs::path(o.output_dir) / "below";
  EXPECT_THROW(prepare_output_dir(o), Error);
}

}  // namespace
}  // namespace thimble::train
