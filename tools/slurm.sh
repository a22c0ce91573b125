#!/usr/bin/env bash
# Start a tool on GPUS processes with srun; called by slurm_train.sh and slurm_test.sh.
# usage: tools/slurm.sh PARTITION JOB_NAME SCRIPT ARGS...
set -uo pipefail
partition=$1; name=$2; script=$3; shift 3
gpus=${GPUS:-8} per_node=${GPUS_PER_NODE:-8}
[ "$per_node" -le "$gpus" ] || per_node=$gpus
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
batch=${SLURM_JOB_ID:-}  # set in an allocation
# shellcheck disable=SC2086
srun -p "$partition" --job-name="$name" --gres="gpu:$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 --signal=USR1@120 ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$root/tools/$script" "$@" --launcher slurm &
step=$!
# bash passes no signals on
for signal in TERM INT USR1; do trap "kill -$signal $step 2>/dev/null" "$signal"; done
while kill -0 "$step" 2>/dev/null; do wait "$step"; done  # a signal ends the wait, not the step
wait "$step"; code=$?
if [ "$code" = $((128 + 10)) ] && [ -n "$batch" ]; then  # SIGUSR1: saved before the time limit
  scontrol requeue "$batch" && echo "job $batch is queued again"
fi
exit "$code"
