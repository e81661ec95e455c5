#!/usr/bin/env bash
# Inside an unpacked bundle, on a GPU machine: the tests on the GPU, or the timings, in parts that each end within minutes.
# usage: gpu_run.sh tests | check | 8b | 70b | 70b-more | decode
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export LD_LIBRARY_PATH=$here/lib:${LD_LIBRARY_PATH:-}
thimble=$here/bin/thimble
show() { printf '\n$ thimble %s\n' "$*"; "$thimble" "$@" 2>&1; }

case ${1:-tests} in
  tests)
    export THIMBLE_TEST_DEVICE=cuda CUDA_LAUNCH_BLOCKING=1 THIMBLE_SOURCE=$here
    for program in ${2:-device quant ops optim nn serve train}; do
      echo "== $program"
      timeout 300 "$here/bin/${program}_tests" --gtest_brief=1 2>&1 | tail -40
    done
    ;;
  check)
    export THIMBLE_TEST_DEVICE=cuda CUDA_LAUNCH_BLOCKING=1
    for tool in memcheck racecheck; do
      echo "== $tool"
      timeout 200 compute-sanitizer --tool "$tool" "$here/bin/${2:-ops}_tests" --gtest_brief=1 2>&1 | tail -12
    done
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
