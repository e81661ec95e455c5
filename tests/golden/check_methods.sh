#!/usr/bin/env bash
# Each adapter that `train_tests --gtest_filter=MethodsRoundTrip.*` left, loaded by PEFT on its base: usage: check_methods.sh BUILD [PYTHON]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
for adapter in "${1:?usage: check_methods.sh BUILD [PYTHON]}"/adapters_of_ours/*/; do
  echo "$(basename "$adapter"): $("${2:-python3}" "$here/check_adapter.py" "$here/llama_odd_tied" "$adapter" "$adapter/logits.safetensors" 2>/dev/null | tail -1)"
done
