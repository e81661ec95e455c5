#!/usr/bin/env bash
# A folder that runs on a GPU machine with CUDA's libraries but none of our build's: programs, tests, what they link, the goldens and their
# scripts, the demo, and gpu_run.sh that runs them all.
# usage: gpu_bundle.sh [FOLDER]   (default out/gpu-bundle; packed beside it as FOLDER.tar.xz)
#        gpu_bundle.sh targets    prints what must be built before
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/cuda
launched=(thimble thimble-world thimble-dump)
rooms=(device quant ops optim nn train serve)
programs=("${launched[@]}" "${rooms[@]/%/_tests}")
if [ "${1:-}" = targets ]; then
  echo "${programs[@]}"
  exit
fi
out=${1:-out/gpu-bundle}

rm -rf "$out" && mkdir -p "$out/bin" "$out/lib" "$out/examples/demo"
for program in "${programs[@]}"; do
  built=$build/$program
  [ -f "$built" ] || built=$build/tests/$program
  strip -o "$out/bin/$program" "$built"
done
for program in "${launched[@]}"; do cp tools/gpu_launch.sh "$out/$program"; done
# Every library but the system's C library and NVIDIA's own, which come with the machine's CUDA.
for program in "$out"/bin/*; do ldd "$program"; done | awk '$3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so|libcu|libnv|libnccl' |
  while read -r library; do cp -L "$library" "$out/lib/$(basename "$library")"; done
strip "$out"/lib/*
cp -r tests/golden "$out/"
rm -rf "$out/golden/__pycache__"
cp examples/demo/*.sh examples/demo/*.yaml "$out/examples/demo/"
cp tools/gpu_run.sh tools/bench_table.py benchmarks/shapes/*.json "$out/"
tar -C "$(dirname "$out")" -cf - "$(basename "$out")" | xz -T0 -3 >"$out.tar.xz"
du -sh "$out" "$out.tar.xz"
if [ "$(stat -c %s "$out.tar.xz")" -ge $((64 << 20)) ]; then
  echo "gpu_bundle: above 64 MiB" >&2
  exit 1
fi
