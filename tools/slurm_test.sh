#!/usr/bin/env bash
# COCO AP of a checkpoint under Slurm.
# usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] tools/slurm_test.sh PARTITION JOB_NAME CONFIG
#        CHECKPOINT [options of tools/test.py]
set -uo pipefail
[ $# -ge 4 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
partition=$1; name=$2; config=$3; checkpoint=$4; shift 4
exec "$(dirname "$0")/slurm.sh" "$partition" "$name" test.py "$config" "$checkpoint" "$@"
