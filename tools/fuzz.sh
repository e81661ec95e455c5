#!/usr/bin/env bash
# Builds the fuzz targets and runs each for a while under libFuzzer and the sanitizers, from its seeds, as many at a time as there are jobs. What ends
# a target lies in build/fuzz/found/; add it to tests/fuzz/seeds/NAME/ with the fix, so that every later test run feeds it again.
# usage: fuzz.sh [TARGET ...]     (SECONDS_EACH=60; JOBS=n)
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc)}
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then mapfile -t targets < <(cd tests/fuzz/seeds && ls); fi
JOBS=$jobs tools/asan.sh "${targets[@]/%/_fuzz}"
export ASAN_SYMBOLIZER_PATH=/usr/bin/llvm-symbolizer-16 LSAN_OPTIONS=suppressions=tools/lsan.supp:print_suppressions=0

fuzz() {
  local name=$1 log=build/fuzz/found/$1.log
  mkdir -p build/fuzz/found "build/fuzz/corpus/$name"
  # The time and memory of one input; what a reader may take is in its own limits. The sanitizers and what they hold back take most of the memory.
  if OMP_NUM_THREADS=1 "build/asan/tests/${name}_fuzz" -max_total_time="${SECONDS_EACH:-60}" -timeout=20 -rss_limit_mb=1024 -malloc_limit_mb=256 -max_len=16384 \
    -print_final_stats=1 -artifact_prefix="build/fuzz/found/$name-" "build/fuzz/corpus/$name" "tests/fuzz/seeds/$name" >"$log" 2>&1; then
    echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, nothing found"
  else
    echo "$name: see $log"
    grep -m1 -A20 -E 'ERROR|runtime error|SUMMARY|libFuzzer: ' "$log" || tail -20 "$log"
    return 1
  fi
}
export -f fuzz
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -c 'fuzz {}'
