#!/usr/bin/env bash
# Train on several processes of this machine, or of several machines.
# usage: tools/dist_train.sh CONFIG GPUS [--max-restarts N] [options of tools/train.py]
# Several machines: NNODES=2 NODE_RANK=0|1 MASTER_ADDR=host PORT=29500 tools/dist_train.sh CONFIG GPUS
# --max-restarts N: if a process fails, all begin again from the newest checkpoint, at most N times. NNODES=2:4: with 2
# to 4 machines, which may come and go.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
config=$1; gpus=$2; shift 2
exec "$(dirname "$0")/launch.sh" "$gpus" "$(dirname "$0")/train.py" "$config" "$@"
