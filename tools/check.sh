#!/usr/bin/env bash
# All that a change must pass: sizes, a build without warnings, every test, the computing rooms' tests again on a GPU where one answers,
# the fast tests again under the sanitizers, a minute of fuzzing for each reader of files, and the CUDA halves compiled where there is an nvcc
# alone. ctest's closing lines are repeated at the end, where one looks.
# usage: check.sh     (JOBS=n: parallel compilations; PRESET=cpu: as without a GPU; SANITIZE="base_tests ...": what runs under the sanitizers;
#                      FUZZ="jinja ...": which readers are fuzzed, none for FUZZ=; SECONDS_EACH=60)
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc)}
preset=${PRESET:-$(tools/preset.sh)}
log=build/check.log

part() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

sources() { git ls-files -co --exclude-standard 2>/dev/null || find . -type f -not -path './build/*' -not -path './out/*' -printf '%P\n'; }

tools/preset.sh say "$preset"

part "sizes"
long=0
while read -r file; do
  [ -f "$file" ] || continue
  lines=$(wc -l <"$file")
  if [ "$lines" -gt 600 ]; then
    echo "$file has $lines lines; 600 is the most"
    long=1
  fi
done < <(sources | grep -E '\.(h|cpp|cu|cuh|cmake|sh|py|yaml)$|(^|/)(CMakeLists\.txt|Makefile)$')
[ "$long" -eq 0 ] || exit 1
echo "no file over 600 lines"

part "build"
tools/setup.sh
cmake --preset "$preset" -Wno-dev --log-level=WARNING
cmake --build --preset "$preset" -j "$jobs"
echo "built in $SECONDS s"

part "tests"
mkdir -p build
# Two programs at a time, each with a thread per core: one that spins at a barrier would burn the time that the other's threads need.
export OMP_WAIT_POLICY=passive
# On the CPU: what these expect of a budget is of a device without a driver's context in it.
CUDA_VISIBLE_DEVICES='' ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j 2 2>&1 | tee "$log"

if [ "$preset" = cuda ] && nvidia-smi -L >/dev/null 2>&1; then
  part "tests on the GPU"
  for room in device quant ops optim nn serve train; do
    echo "-- $room"
    THIMBLE_TEST_DEVICE=cuda CUDA_LAUNCH_BLOCKING=1 "build/cuda/tests/${room}_tests" --gtest_brief=1
  done
fi

part "fast tests under the address and undefined-behaviour sanitizers"
# Where files are read, memory is handed out and arithmetic indexes it. What plan, train and serve add would double the build: SANITIZE=... for those.
fast=${SANITIZE:-base_tests device_tests data_tests quant_tests store_tests models_tests optim_tests ops_tests}
JOBS=$jobs tools/asan.sh $fast
export ASAN_SYMBOLIZER_PATH=/usr/bin/llvm-symbolizer-16 LSAN_OPTIONS=suppressions=tools/lsan.supp:print_suppressions=0
for program in $fast; do
  echo "-- $program"
  OMP_NUM_THREADS=2 "build/asan/tests/$program" --gtest_brief=1 --gtest_filter='-*A70BOn24GiB*:Planner.Chooses*'  # thousands of dry runs, the same ones as others'
done

if [ -n "${FUZZ=all}" ]; then
  part "readers of files under libFuzzer"
  JOBS=$jobs tools/fuzz.sh ${FUZZ#all}
fi

part "CUDA halves"
if [ "$preset" = cuda ]; then
  echo "built above"
elif PATH=$PATH:/usr/local/cuda/bin command -v nvcc >/dev/null; then
  cmake --preset cuda -Wno-dev --log-level=WARNING
  cmake --build --preset cuda -j "$jobs" --target thimble ops_tests
  echo "compiled; they run where there is a GPU"
else
  echo "skipped: no nvcc"
fi

part "all passed"
sed -n '/tests passed,/,$p' "$log"
