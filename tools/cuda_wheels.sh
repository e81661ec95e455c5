#!/usr/bin/env bash
# The two header libraries that only the `cuda` preset may need and Debian does not have: cuDNN's frontend and CUTLASS, from PyPI by hash.
# Leaves FOLDER/cudnn_frontend/include and FOLDER/cutlass/include; does nothing where they are there.
# usage: cuda_wheels.sh FOLDER
set -euo pipefail

folder=${1:?usage: cuda_wheels.sh FOLDER}
mkdir -p "$folder"

fetch() {  # name, requirement, hash, folder of the headers inside the wheel
  local name=$1 requirement=$2 hash=$3 inside=$4
  [ -d "$folder/$name/include" ] && return
  local aside
  aside=$(mktemp -d "$folder/.$name.XXXXXX")
  trap 'rm -rf "$aside"' RETURN
  echo "$requirement --hash=sha256:$hash" >"$aside/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: \
    --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --dest "$aside" --requirement "$aside/requirements.txt"
  python3 -m zipfile -e "$aside"/*.whl "$aside/wheel"
  mkdir -p "$aside/$name"
  mv "$aside/wheel/$inside" "$aside/$name/include"
  rm -rf "${folder:?}/$name"
  mv "$aside/$name" "$folder/$name"
  echo "fetched $requirement"
}

fetch cudnn_frontend nvidia-cudnn-frontend==1.14.1 c19a41a1b06f9d087e18cb4f2ca25208ae9423967e7009aba5dd2c3912558b4a include
fetch cutlass nvidia-cutlass==4.2.0.0 f9599ada45c7bcb6bf53f7d3f0a7d154183e53451c01bfa59eecd37dd4a693f6 cutlass_library/source/include
