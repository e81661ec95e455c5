#!/usr/bin/env bash
# Inside an unpacked bundle, on a GPU machine: the tests on the GPU, comparisons, or timings, in parts that each end within minutes.
# usage: gpu_run.sh tests | check | demo | agreement | quality | plans | 8b | 70b | 70b-more | decode
# agreement, quality: need Python with torch, transformers, peft, bitsandbytes; STORIES names stories260K's folder, DEMO those of demos
# (as `gpu_run.sh demo` leaves them in out/ if not given). What they leave in out/ is kept: a part that was broken off goes on.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
thimble=$here/thimble
out=$here/out
minutes=7
show() { printf '\n$ thimble %s\n' "$*"; "$thimble" "$@" 2>&1; }
# Not exported: Python must not load this bundle's C++ library for its own.
with_libraries() { LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$@"; }
python() { PYTHONUNBUFFERED=1 timeout "${minutes}m" python3 "$here/golden/$1" --device cuda --thimble "$thimble" --recipe "$here/examples/demo/qlora.yaml" "${@:2}"; }

# A bench run of `plans`, unless the part's time is over.
plan() {
  if [ "$SECONDS" -gt 330 ]; then
    printf '\n$ thimble bench %s\nleft out: no time\n' "$*"
    return
  fi
  printf '\n$ thimble bench %s\n' "$*"
  timeout 140 "$thimble" bench "$here/$1" "${@:2}" --steps 3 2>&1
  local status=$?
  [ "$status" -ne 124 ] || echo "stopped: 140 s were over"
}
plans_0.5b() {
  plan 0.5b.json --tokens 512 --full
  plan 0.5b.json --tokens 4096 --full --save recompute --paged
  plan 0.5b.json --tokens 1024 --batch 8 --full --vram 16GiB --hold-back
  plan 0.5b.json --tokens 1024 --batch 8 --format dense
  plan 0.5b.json --tokens 2048 --batch 4
}
plans_8b() {
  plan 8b.json --tokens 512 --batch 8 --accumulation 2 --rank 64
  plan 8b.json --tokens 1024 --paged
  plan 8b.json --tokens 2048 --batch 2
  plan 8b.json --tokens 2048 --batch 2 --save recompute
  plan 8b.json --tokens 2048 --batch 2 --format dense
  plan 8b.json --tokens 2048 --batch 2 --format nf4 --vram 16GiB --hold-back
  plan 8b.json --tokens 2048 --batch 2 --vram 8GiB --hold-back
  plan 8b.json --tokens 4096 --save offload
}
plans_70b() {
  plan 70b.json --tokens 4096 --vram 24GiB --ram 64GiB --hold-back
  plan 70b.json --tokens 4096 --rank 64 --vram 24GiB --ram 64GiB --hold-back
  plan 70b.json --tokens 2048 --vram 40GiB --ram 64GiB --hold-back
  plan 70b.json --tokens 512
}

case ${1:-tests} in
  tests)
    export THIMBLE_TEST_DEVICE=cuda CUDA_LAUNCH_BLOCKING=1 THIMBLE_GOLDEN=$here/golden
    for program in ${2:-device quant ops optim nn serve train}; do
      echo "== $program"
      with_libraries timeout 300 "$here/bin/${program}_tests" --gtest_brief=1 2>&1 | tail -40
    done
    ;;
  check)
    export THIMBLE_TEST_DEVICE=cuda CUDA_LAUNCH_BLOCKING=1 THIMBLE_GOLDEN=$here/golden
    for tool in memcheck racecheck; do
      echo "== $tool"
      with_libraries timeout 200 compute-sanitizer --tool "$tool" "$here/bin/${2:-ops}_tests" --gtest_brief=1 2>&1 | tail -12
    done
    ;;
  demo)  # [SEED]
    for seed in ${2:-1 2 3}; do timeout 150 bash "$here/examples/demo/run.sh" "$here" "$out/demo-$seed" "$seed"; done
    ;;
  agreement)  # [gradients | curves]
    more=(--dump "$here/thimble-dump" --out "$out/agreement")
    [ ! -d "${STORIES:-}" ] || more+=(--stories "$STORIES")
    demo=${DEMO:-$out/demo-1}
    [ ! -d "${demo%% *}/base" ] || more+=(--demo "${demo%% *}")
    [ $# -lt 2 ] || more+=(--only "$2")
    python agreement.py "${more[@]}"
    ;;
  quality)  # [paged_adamw_8bit]
    python quality.py --optim "${2:-adamw_torch}" --out "$out/quality" --demo ${DEMO:-"$out"/demo-?}
    ;;
  plans)  # [0.5b | 8b | 70b]: one table at the end, of all that ran so far
    mkdir -p "$out"
    for shape in ${2:-0.5b 8b 70b}; do plans_"$shape" 2>&1 | tee "$out/plans-$shape.log"; done
    echo
    python3 "$here/bench_table.py" "$out"/plans-*.log
    ;;
  8b)
    show bench "$here/8b.json" --tokens 2048 --batch 2 --steps 5 --save recompute
    show bench "$here/8b.json" --tokens 2048 --batch 2 --steps 5
    show bench "$here/8b.json" --tokens 1024 --batch 1 --steps 5
    show bench "$here/8b.json" --tokens 2048 --batch 2 --steps 5 --vram 16GiB --hold-back
    show bench "$here/8b.json" --tokens 2048 --batch 2 --steps 5 --vram 8GiB --hold-back
    show bench "$here/8b.json" --tokens 2048 --batch 2 --steps 5 --format dense
    show bench "$here/8b.json" --tokens 2048 --batch 2 --steps 5 --deterministic
    ;;
  70b) show bench "$here/70b.json" --tokens 4096 --steps 50 --vram 24GiB --ram 64GiB --hold-back ;;
  70b-more)
    show bench "$here/70b.json" --tokens 4096 --steps 4 --vram 12GiB --ram 64GiB --hold-back
    show bench "$here/70b.json" --tokens 4096 --steps 4 --save recompute
    show bench "$here/70b.json" --tokens 4096 --steps 4 --vram 8GiB --ram 64GiB --hold-back
    ;;
  decode)
    show bench "$here/8b.json" --decode 64 --format nf4_dq
    show bench "$here/8b.json" --decode 64 --format dense
    ;;
esac
