#!/usr/bin/env bash
# Start a tool on GPUS processes through torchrun; called by dist_train.sh and dist_test.sh.
# usage: tools/launch.sh GPUS SCRIPT ARGS...
set -euo pipefail
gpus=$1; shift
python=${PYTHON:-python}
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export MMDET_STARTED=${MMDET_STARTED:-$(date +%s)}  # checkpoints that are older are another run's
restarts=0
words=()
while [ $# -gt 0 ]; do
  case $1 in
    --max-restarts) restarts=${2:?--max-restarts: a number is missing}; shift ;;
    --max-restarts=*) restarts=${1#*=} ;;
    *) words+=("$1") ;;
  esac
  shift
done
nnodes=${NNODES:-1}
host=${MASTER_ADDR:-127.0.0.1} port=${PORT:-29500}
if [ "$nnodes" = 1 ] && [ -z "${PORT:-}" ]; then
  address=(--standalone)  # a free port: two runs on one machine don't meet
elif [ "$restarts" = 0 ] && [[ $nnodes != *:* ]]; then
  address=(--nnodes "$nnodes" --node_rank "${NODE_RANK:-0}" --master_addr "$host" --master_port "$port")
else  # machines find each other anew after a failure
  address=(--nnodes "$nnodes" --rdzv-backend c10d --rdzv-endpoint "$host:$port" --rdzv-id "${RUN_ID:-mmdet}")
fi
exec "$python" -m mmdet.run.launch "$gpus" --max-restarts "$restarts" "${address[@]}" "${words[@]}" --launcher pytorch
