#!/usr/bin/env bash
# From a fresh clone to a COCO table: set up, make the synthetic shapes, train a small Mask R-CNN with CBN on the
# CPU, evaluate it, and draw its detections.
# usage: tools/demo.sh [NORM]       NORM: cbn (default), bn or gn
set -euo pipefail
cd "$(dirname "$0")/.."
norm=${1:-cbn}
config=configs/shapes/mask-rcnn_r18_fpn_${norm}.py
[ -f "$config" ] || { echo "error: no norm '$norm'; choose cbn, bn or gn" >&2; exit 2; }
tools/setup_env.sh
python=.venv/bin/python
out=work_dirs/demo_$norm
[ -d data/shapes ] || $python tools/dataset_converters/make_shapes.py --out data/shapes
$python tools/train.py "$config" --work-dir "$out" --cfg-options randomness.seed=0
$python tools/test.py "$config" "$out/$(basename "$(cat "$out/last_checkpoint")")" --work-dir "$out" \
  --show-dir "$PWD/$out/pictures"
echo "pictures of the detections: $out/pictures"
