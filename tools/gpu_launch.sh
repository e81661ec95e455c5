#!/bin/sh
# Copied into a bundle under a program's name: runs bin/NAME with the bundle's libraries, which nothing else on the machine must see.
here=$(cd "$(dirname "$0")" && pwd)
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/bin/$(basename "$0")" "$@"
