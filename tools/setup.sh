#!/usr/bin/env bash
# Installs what a build needs from Debian's packages, and nothing that is there already: without a missing package it touches no network.
# usage: setup.sh [more packages ...]
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config git
  libdnnl-dev
  nlohmann-json3-dev rapidjson-dev libyaml-cpp-dev libcli11-dev libspdlog-dev libfmt-dev
  libpcre2-dev libutf8proc-dev libpng-dev
  libsnappy-dev libzstd-dev zlib1g-dev
  libgtest-dev
  "$@"
)

if ! command -v dpkg-query >/dev/null; then
  echo "setup: not a Debian system; the build needs what Debian calls: ${packages[*]}" >&2
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed* ]] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  printf 'setup: packages are missing; as root:\n  apt-get update && apt-get install -y --no-install-recommends %s\n' "${missing[*]}" >&2
  exit 1
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}"
