#!/usr/bin/env bash
# Builds targets under the address and undefined-behaviour sanitizers, and as what libFuzzer can drive: with clang, which also shows that a second
# compiler takes all of our code. One build serves both.
# usage: asan.sh TARGET ...     (JOBS=n)
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh clang-16 libclang-rt-16-dev libomp-16-dev llvm-16  # the first of Debian 12 that has std::source_location
cmake --preset asan -Wno-dev --log-level=WARNING >/dev/null
cmake --build --preset asan -j "${JOBS:-$(nproc)}" --target "$@"
