#!/usr/bin/env bash
# Train under Slurm, inside an allocation, a batch script, or from the login node.
# usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] tools/slurm_train.sh PARTITION JOB_NAME CONFIG
#        WORK_DIR [options of tools/train.py]
# Two minutes before the time limit, or when Slurm takes the machines back, the state is saved; a batch job
# (sbatch --requeue) is queued again and goes on from there.
set -uo pipefail
[ $# -ge 4 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
partition=$1; name=$2; config=$3; work_dir=$4; shift 4
exec "$(dirname "$0")/slurm.sh" "$partition" "$name" train.py "$config" --work-dir "$work_dir" "$@"
