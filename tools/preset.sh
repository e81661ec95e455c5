#!/usr/bin/env bash
# Which CMake preset this machine is for: `cuda` where there is an nvcc and a driver answers, else `cpu`.
# usage: preset.sh             prints its name
#        preset.sh say PRESET  says in one line what that preset's programs run on here, and why
set -euo pipefail
PATH=$PATH:/usr/local/cuda/bin
gpu=$(timeout 30 nvidia-smi -L 2>/dev/null | sed -n 's/^GPU 0: \(.*\) (UUID.*/\1/p') || gpu=
if ! command -v nvcc >/dev/null; then
  best=cpu why="no nvcc here"
elif [ -z "$gpu" ]; then
  best=cpu why="nvcc is here, but no NVIDIA driver answers"
else
  best=cuda why="nvcc and a driver are here"
fi
if [ $# -eq 0 ]; then
  echo "$best"
  exit
fi
preset=$2
[ "$preset" = "$best" ] || why="PRESET=$preset was asked for; $why"
if [ "$preset" = cpu ] || [ -z "$gpu" ]; then device="the CPU"; else device=$gpu; fi
echo "runs on $device, built with the $preset preset: $why"
