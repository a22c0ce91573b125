#!/usr/bin/env bash
# Everything of this repository that a GPU can do otherwise than a CPU: tests, benchmarks, short trainings. Writes one
# page of Markdown for docs/gpu.md, whose last line is PASS, or FAILED and what. At most 9 minutes, without network.
# usage: tools/gpu_check.sh [GPUS]     GPUS: processes of the distributed trainings (default: all GPUs)
# GPU_CHECK_DEVICE=cpu tools/gpu_check.sh rehearses it without a GPU, everything small.
# GPU_CHECK_DIR: page, logs and trainings (default: work_dirs/gpu_check). PYTHON: the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] && default=.venv/bin/python || default=python3
export PYTHON=${PYTHON:-$default} GPU_CHECK_DEVICE=${GPU_CHECK_DEVICE:-cuda}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
out=${GPU_CHECK_DIR:-work_dirs/gpu_check}

case $GPU_CHECK_DEVICE in
  cuda | cpu) ;;
  *) echo "gpu_check: GPU_CHECK_DEVICE=$GPU_CHECK_DEVICE: must be cuda or cpu" >&2; exit 2;;
esac
[[ ${1:-1} =~ ^[1-9][0-9]*$ ]] || { echo "gpu_check: GPUS=$1: must be 1 or more" >&2; exit 2; }
gpus=$("$PYTHON" -c 'import mmdet.engine, pytest, torch; print(torch.cuda.device_count())') ||
  { echo "gpu_check: $PYTHON lacks a package, see above and INSTALL.md; PYTHON=... takes another" >&2; exit 2; }
case $GPU_CHECK_DEVICE in
  cuda) [ "$gpus" -gt 0 ] || { echo 'gpu_check: torch sees no CUDA device here (nvidia-smi, and python -c "import' \
          'torch; print(torch.version.cuda)", tell why); GPU_CHECK_DEVICE=cpu rehearses it on the CPU' >&2; exit 2; }
        step=(--rounds 3) layer=(--rounds 9) shapes=(--train 64 --val 8) amps=(fp16 bf16) epochs=3;;
  cpu) gpus=1 step=(configs/shapes/mask-rcnn_r18_fpn.py --rounds 1 --image-size 64 64 --norms 'CBN+ (window of 16)')
       layer=(--rounds 1 --channels 32) shapes=(--train 8 --val 2 --size 64) amps=(bf16) epochs=4;;
esac
gpus=${1:-$gpus}
rm -rf "$out" && mkdir -p "$out" || exit 2
failed=() fence='```'

run() {  # NAME SECONDS COMMAND...: into NAME.log; a failure is kept, and its last lines are shown
  local name=$1 seconds=$2; shift 2
  timeout -k 10 "$seconds" "$@" >"$out/$name.log" 2>&1 && return
  local code=$?
  failed+=("$name")
  printf '\n%s failed, exit code %s%s; its last lines:\n\n%s text\n' "$name" $code \
    "$([ $code = 124 ] && echo " (longer than $seconds s)")" "$fence"
  tail -n 12 "$out/$name.log" | cut -c-300
  echo "$fence"
}

show() { grep -E "$2" "$out/$1.log" | head -n 40 | cut -c-300 | sed -E 's/^(.*medians of.*)$/\n\1\n/'; }  # NAME PATTERN

train() {  # NAME COMMAND...: with the options that every training gets
  local name=$1; shift
  run "$name" 35 "$@" --work-dir "$out/$name" --cfg-options "${data[@]}" train_cfg.max_epochs=$epochs \
    train_cfg.val_interval=$epochs default_hooks.logger.interval=1 default_hooks.checkpoint.interval=-1 \
    default_hooks.checkpoint.save_best=None visualizer.vis_backends=LocalVisBackend randomness.seed=0
}

page() {
  printf '### %s, %s\n' "$("$PYTHON" -c 'from mmdet.comparison.grid import device_name; print(device_name())')" \
    "$(date -u +%Y-%m-%d)"
  [ "$GPU_CHECK_DEVICE" = cuda ] || printf '\nA rehearsal on the CPU: no number here says anything of a GPU.\n'
  printf '\nCommit %s.\n\n' "$(git describe --always --dirty 2>/dev/null || echo unknown)"
  run machine 30 "$PYTHON" tools/benchmarks/gpu_report.py machine
  show machine '^\|'

  printf '\n#### Tests\n'
  run tests 130 "$PYTHON" -m pytest -m cuda -q --tb=short --show-capture=no -p no:cacheprovider \
    tests/test_ops/test_cuda.py
  printf '\n%s text\n' "$fence"; show tests '^E  | in [0-9.]+s'; echo "$fence"

  printf '\n#### Convolution, norm and ReLU\n'
  run layers 60 "$PYTHON" tools/benchmarks/norm_layer.py --device "$GPU_CHECK_DEVICE" --batch-size 1 4 "${layer[@]}"
  show layers '^\||medians of'

  printf '\n#### Training steps\n'
  for where in 'neck bbox_head mask_head' 'backbone neck bbox_head mask_head'; do
    name=steps_$([[ $where = b* ]] && echo everywhere || echo neck_and_heads)
    run $name 70 "$PYTHON" tools/benchmarks/train_step.py "${step[@]}" --device "$GPU_CHECK_DEVICE" --profile \
      --batch-size 1 4 --where $where
    show $name '^\||medians of'
  done

  printf '\n#### Trainings\n'
  run data 20 "$PYTHON" tools/dataset_converters/make_shapes.py --out "$out/shapes" "${shapes[@]}"
  data=() norm=() config=configs/shapes/mask-rcnn_r18_fpn
  for part in train val test; do data+=("${part}_dataloader.dataset.data_root=$out/shapes"); done
  for part in val test; do data+=("${part}_evaluator.ann_file=$out/shapes/annotations/val.json"); done
  for amp in "${amps[@]}"; do train "amp_$amp" "$PYTHON" tools/train.py ${config}_cbn.py --amp $amp; done
  for part in backbone neck roi_head.bbox_head roi_head.mask_head; do norm+=("model.$part.norm_cfg"); done
  data+=("${norm[@]/%/.type=SyncCBN}" "${norm[@]/%/.burnin=0}")
  train "SyncCBN_on_$gpus" tools/dist_train.sh ${config}_cbn.py "$gpus" --amp
  data=("${data[@]:0:5}" "${norm[@]/%/.type=SyncBN}")
  train "SyncBN_on_$gpus" tools/dist_train.sh ${config}_bn.py "$gpus"
  run trainings 20 "$PYTHON" tools/benchmarks/gpu_report.py trainings "$out"/{amp_*,Sync*}/
  printf '\n'; show trainings '^\|'

  printf '\n%s seconds.\n\n' $SECONDS
  [ ${#failed[@]} = 0 ] && echo PASS || { printf -v names ', %s' "${failed[@]}"; echo "FAILED: ${names:2}"; }
}

page | tee "$out/page.md"
[ "$(tail -n 1 "$out/page.md")" = PASS ]
