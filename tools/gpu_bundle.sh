#!/usr/bin/env bash
# A folder that runs on a GPU machine with CUDA's libraries but none of our build's: programs, tests, what they link, the script that runs
# them all. usage: gpu_bundle.sh [FOLDER]   (default out/gpu-bundle; packed beside it as FOLDER.tar.xz)
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/cuda
out=${1:-out/gpu-bundle}
programs=(thimble tests/device_tests tests/quant_tests tests/ops_tests tests/optim_tests tests/nn_tests tests/train_tests tests/serve_tests)

rm -rf "$out" && mkdir -p "$out/bin" "$out/lib"
for program in "${programs[@]}"; do
  [ -f "$build/$program" ] || continue
  strip -o "$out/bin/$(basename "$program")" "$build/$program"
done
# Every library but the system's C library and NVIDIA's own, which come with the machine's CUDA.
for program in "$out"/bin/*; do ldd "$program"; done | awk '$3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so|libcu|libnv|libnccl' |
  while read -r library; do cp -L "$library" "$out/lib/$(basename "$library")"; done
strip "$out"/lib/*
cp -r tests/golden "$out/golden"
rm -f "$out"/golden/*.py
cp tools/gpu_run.sh benchmarks/shapes/*.json "$out/"
tar -C "$(dirname "$out")" -cf - "$(basename "$out")" | xz -T0 -3 >"$out.tar.xz"
du -sh "$out" "$out.tar.xz"
