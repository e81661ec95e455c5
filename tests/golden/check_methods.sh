#!/usr/bin/env bash
# Each adapter that `train_tests --gtest_filter=MethodsRoundTrip.*` left, loaded by PEFT on its base: usage: check_methods.sh BUILD [PYTHON]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
for adapter in "${1:?usage: check_methods.sh BUILD [PYTHON]}"/adapters_of_ours/*/; do
  case "$(basename "$adapter")" in fused*) base=families/phi3 ;; *) base=llama_odd_tied ;; esac
  echo "$(basename "$adapter"): $("${2:-python3}" "$here/check_adapter.py" "$here/$base" "$adapter" "$adapter/logits.safetensors" 2>/dev/null | tail -1)"
done
