#!/usr/bin/env bash
# From a fresh clone to a COCO table: set up, fine-tune a small Mask R-CNN on the 48 microscope images of demo/nuclei on
# the CPU, from ImageNet weights that come with a package, evaluate it, and draw its detections.
# usage: tools/demo.sh [WHAT]       WHAT: nuclei (default), cbn, bn or gn
# cbn, bn and gn train on synthetic shapes instead, from random weights with this norm.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-nuclei}
out=work_dirs/demo_$what
case $what in
  nuclei)
    config=$out/nuclei.py source=(--data demo/nuclei)
    options=(randomness.seed=0 train_cfg.max_epochs=20 train_cfg.val_interval=5) ;;
  cbn|bn|gn) config=configs/shapes/mask-rcnn_r18_fpn_$what.py source=("$config") options=(randomness.seed=0) ;;
  *) echo "error: no demo '$what'; choose nuclei, cbn, bn or gn" >&2; exit 2 ;;
esac
tools/setup_env.sh
python=.venv/bin/python
[ "$what" = nuclei ] || [ -d data/shapes ] || $python tools/dataset_converters/make_shapes.py --out data/shapes
$python tools/train.py "${source[@]}" --work-dir "$out" --cfg-options "${options[@]}"
$python tools/test.py "$config" "$out/$(basename "$(cat "$out/last_checkpoint")")" --work-dir "$out" \
  --show-dir "$PWD/$out/pictures"
echo "pictures of the detections: $out/pictures"
