#!/usr/bin/env bash
# Builds the fuzz targets with clang and runs each for a while under the sanitizers, from its seeds. What ends a target lies in
# build/fuzz/found/; add it to tests/fuzz/seeds/NAME/ with the fix, so that every later test run feeds it again.
# usage: fuzz.sh [TARGET ...]     (SECONDS_EACH=60; JOBS=n: parallel compilations)
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh clang libclang-rt-14-dev libomp-dev
cmake --preset fuzz -Wno-dev --log-level=WARNING
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then mapfile -t targets < <(cd tests/fuzz/seeds && ls); fi
cmake --build --preset fuzz -j "${JOBS:-$(nproc)}" --target "${targets[@]/%/_fuzz}"
mkdir -p build/fuzz/found
for target in "${targets[@]}"; do
  echo "-- $target"
  mkdir -p "build/fuzz/corpus/$target"
  # The memory and time of one input; what a reader may take in all is in its own limits.
  OMP_NUM_THREADS=1 "build/fuzz/tests/${target}_fuzz" -max_total_time="${SECONDS_EACH:-60}" -timeout=20 -rss_limit_mb=2048 -max_len=16384 \
    -verbosity=0 -print_final_stats=1 -artifact_prefix="build/fuzz/found/$target-" "build/fuzz/corpus/$target" "tests/fuzz/seeds/$target" 2>&1 |
    grep -vE '^(INFO|stat::(slowest|new_units|peak))' || [ "${PIPESTATUS[0]}" -eq 0 ]
done
