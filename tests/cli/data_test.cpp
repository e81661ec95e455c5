// data check and data prepare, files of LLaMA-Factory run as they are, and the recipes of examples/.
#include "cli/program.h"

namespace thimble::cli {
namespace {

const std::string small = " threads=1 vram=64MiB ram=512MiB ";

TEST_F(Program, DataCheckSaysWhatAFileHolds) {
  make_model(), make_data();
  const Answer a = thimble("data check rows.jsonl --model model --threads 1");
  ASSERT_EQ(a.code, 0) << a.text;
  for (const char* part : {"rows.jsonl: 1 file, ", "trained as stage sft", "form: prompt and response", "rows: 4, of which 0 damaged", "examples: 4, ", " 32 learned", "truncated: 0 examples",
                           "length in tokens:", "s a y   a b[[a b   a b </s>]]"})
    EXPECT_TRUE(a.says(part)) << part << "\n" << a.text;
  const Answer cut = thimble("data check rows.jsonl --model model --threads 1 --cutoff-len 12");
  EXPECT_EQ(cut.code, 0);
  EXPECT_TRUE(cut.says("dropped: 1 rows: the answer begins behind cutoff_len") || cut.says("truncated: ")) << cut.text;
}

TEST_F(Program, DataCheckNamesTheFirstBadRowAndReadsOn) {
  make_model();
  write("bad.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"a\"}\n{\"prompt\": \n{\"prompt\": \"c\", \"response\": \"d\"}\n");
  const Answer a = thimble("data check bad.jsonl --model model --threads 1");
  EXPECT_EQ(a.code, 3) << a.text;
  EXPECT_TRUE(a.says("rows: 4, of which 2 damaged") && a.says("examples: 2, ") && a.says("bad.jsonl:2") && a.says("'response'")) << a.text;
  EXPECT_EQ(thimble("data check none.jsonl --model model").code, 3);
  write("words.txt", "a b c\nd e f\n");
  const Answer text = thimble("data check words.txt --model model --threads 1");
  EXPECT_EQ(text.code, 0) << text.text;
  EXPECT_TRUE(text.says("trained as stage pt")) << text.text;
}

TEST_F(Program, WhatIsPreparedIsFound) {
  make_model(), make_data();
  const std::string run = " model_name_or_path=model dataset=rows.jsonl tokenized_path=kept cutoff_len=64" + small;
  const Answer prepared = thimble("data prepare" + run);
  ASSERT_EQ(prepared.code, 0) << prepared.text;
  EXPECT_TRUE(prepared.says("4 examples to train on") && !prepared.says("tokenised before")) << prepared.text;
  const Answer trained = thimble("train output_dir=out max_steps=2 lora_rank=4" + run);
  ASSERT_EQ(trained.code, 0) << trained.text;
  EXPECT_TRUE(trained.says("tokenised before")) << trained.text;
  EXPECT_FALSE(thimble("data prepare overwrite_cache=true" + run).says("tokenised before"));
}

// LLaMA-Factory's example files, but for the names of the model and the data and for the sizes.
TEST_F(Program, FilesOfLlamaFactoryRunAsTheyAre) {
  make_model();
  write("data/dataset_info.json", R"({"identity": {"file_name": "identity.json"}, "chats": {"file_name": "chats.jsonl", "formatting": "sharegpt"},
                                      "c4_demo": {"file_name": "c4_demo.jsonl", "columns": {"prompt": "text"}}})");
  write("data/identity.json", R"([{"instruction": "hi", "input": "", "output": "hello"}, {"instruction": "who are you", "input": "", "output": "a thimble"}])");
  write("data/chats.jsonl", R"({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]})");
  write("data/c4_demo.jsonl", "{\"text\": \"the quick brown fox\"}\n{\"text\": \"jumps over the lazy dog\"}\n");
  write("sft.yaml", R"(### model
model_name_or_path: model
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: identity,chats
cutoff_len: 64
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/lora/sft
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
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
)");
  const Answer sft = thimble("train sft.yaml tokenized_path=kept" + small);
  ASSERT_EQ(sft.code, 0) << sft.text;
  EXPECT_TRUE(sft.says("data 'identity': 2 rows of alpaca") && sft.says("data 'chats': 1 rows of sharegpt")) << sft.text;
  EXPECT_EQ(json("saves/lora/sft/args.json")["dataset"], (Json{"identity", "chats"}));
  write("pt.yaml", R"(### model
model_name_or_path: model

### method
stage: pt
do_train: true
finetuning_type: full

### dataset
dataset: c4_demo
cutoff_len: 16
streaming: true
buffer_size: 128

### output
output_dir: saves/pt
logging_steps: 10
save_steps: 500
overwrite_output_dir: true

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 2
learning_rate: 1.0e-4
max_steps: 3
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
)");
  const Answer pt = thimble("train pt.yaml tokenized_path=kept" + small);
  ASSERT_EQ(pt.code, 0) << pt.text;
  EXPECT_TRUE(pt.says("data 'c4_demo': 2 rows of text") && pt.says("streaming (data is always streamed")) << pt.text;
}

TEST_F(Program, MixedDatasetsTrain) {
  make_model(), make_data();
  write("more.csv", "prompt,response\nsay d,d d\nsay e,e e e\n");
  const Answer a = thimble("train model_name_or_path=model dataset=rows.jsonl,more.csv#5 mix_strategy=interleave_over interleave_probs=0.5,0.5 tokenized_path=kept "
                           "output_dir=out max_steps=2 cutoff_len=64 lora_rank=4" + small);
  EXPECT_EQ(a.code, 0) << a.text;
}

}  // namespace
}  // namespace thimble::cli
