#!/usr/bin/env bash
# Start a tool on GPUS processes through torchrun; called by dist_train.sh and dist_test.sh.
# usage: tools/launch.sh GPUS SCRIPT ARGS...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m mmdet.run.launch "$@"
