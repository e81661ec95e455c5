#!/usr/bin/env bash
# The demo from beginning to end: a world, a base that reads of it, QLoRA inside a small budget, held-out questions before and after.
# usage: run.sh [BUILD_FOLDER] [OUT_FOLDER] [SEED]
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
build=${1:-build/cpu}
out=${2:-out/demo}
seed=${3:-1}
thimble=$build/thimble
world=$out/world

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
show() { printf '$ %s\n' "$*"; "$@"; }

rm -rf "$out"
mkdir -p "$out"

step "A world, and text that tells of it"
show "$build/thimble-world" --out "$world" --seed "$seed"
head -n 3 "$world/text.jsonl"

step "A small base reads it"
show "$thimble" init "$world/config.json" --out "$out/seeded" --seed "$seed"
show "$thimble" train "$here/pretrain.yaml" "model_name_or_path=$out/seeded" "dataset=$world/text.jsonl" "output_dir=$out/base" "seed=$seed"

tuning=("model_name_or_path=$out/base" "dataset=$world/questions_train.jsonl" "output_dir=$out/adapter" "seed=$seed")
# On a GPU the budget holds the driver's context too, and products ask for scratch: 40 MiB beside the context fit QLoRA's 37 and not full tuning's 41.
context=$("$thimble" doctor | sed -n 's/^GPU 0 .*, \([0-9]*\) MiB of context$/\1/p')
[ -z "$context" ] || tuning+=("vram=$((context + 40))MiB")

step "Tuning all of its weights inside the budget is refused"
status=0
show "$thimble" plan "$here/qlora.yaml" "${tuning[@]}" finetuning_type=full quantization_bit=null save=auto resident_layers=auto || status=$?
if [ "$status" -ne 4 ]; then
  echo "expected exit code 4 (does not fit), found $status" >&2
  exit 1
fi
echo "exit code $status: does not fit"

step "QLoRA inside the same budget"
show "$thimble" plan "$here/qlora.yaml" "${tuning[@]}"
show "$thimble" train "$here/qlora.yaml" "${tuning[@]}"

step "Questions about people whom the tuning never mentioned"
grep '"chance"' "$world/world.json" | sed 's/^ *"chance": *\([0-9.]*\).*/chance: \1 (one in the number of possible answers)/'
echo "before:"
show "$thimble" eval --model "$out/base" --data "$world/questions_test.jsonl"
echo "after:"
show "$thimble" eval --model "$out/base" --adapter "$out/adapter" --quantization nf4_dq --data "$world/questions_test.jsonl"

step "Done"
question=$(sed -n '1s/.*"prompt":"\([^"]*\)".*/\1/p' "$world/questions_test.jsonl")
answer=$(sed -n '1s/.*"response":"\([^"]*\)".*/\1/p' "$world/questions_test.jsonl")
echo "curves: $out/base/training_loss.png and $out/adapter/training_loss.png"
echo "talk to it: $thimble chat --model $out/base --adapter $out/adapter --quantization nf4_dq"
echo "and ask, say: $question   (the world says: $answer)"
