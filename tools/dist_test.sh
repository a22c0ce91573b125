#!/usr/bin/env bash
# COCO AP of a checkpoint on several processes.
# usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
config=$1; checkpoint=$2; gpus=$3; shift 3
exec "$(dirname "$0")/launch.sh" "$gpus" "$(dirname "$0")/test.py" "$config" "$checkpoint" "$@"
