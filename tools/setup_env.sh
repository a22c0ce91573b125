#!/usr/bin/env bash
# Make the virtual environment .venv with the pinned versions and this package (editable), unless it is there.
# usage: tools/setup_env.sh        PYTHON=python3.12 picks the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.venv/.installed
want=$(cat setup.py requirements.txt constraints.txt | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && .venv/bin/python -c 'import mmdet' 2>/dev/null; then
  exit 0
fi
echo "setting up .venv (once, a few minutes)"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install -q -c constraints.txt -e '.[tests,docs]'
.venv/bin/python -c 'import mmdet, mmcv, torchvision'
printf '%s' "$want" > "$stamp"
