#!/usr/bin/env bash
# Start a tool on GPUS processes through torchrun; called by dist_train.sh and dist_test.sh.
# usage: tools/launch.sh GPUS SCRIPT ARGS...
set -euo pipefail
gpus=$1; shift
python=${PYTHON:-python}
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
nnodes=${NNODES:-1}
if [ "$nnodes" = 1 ] && [ -z "${PORT:-}" ]; then
  address=(--standalone)  # a free port: two runs on one machine don't meet
else
  address=(--nnodes "$nnodes" --node_rank "${NODE_RANK:-0}" --master_addr "${MASTER_ADDR:-127.0.0.1}"
           --master_port "${PORT:-29500}")
fi
exec "$python" -m mmdet.utils.launch "$gpus" "${address[@]}" "$@" --launcher pytorch
