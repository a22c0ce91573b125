#!/usr/bin/env bash
# What is looked at without running it: ruff (check and format) over the whole tree, mypy over what pyproject.toml names.
# usage: tools/lint.sh        after tools/setup_env.sh
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --quiet --check . || { echo 'error: .venv/bin/ruff format . lays these files out' >&2; exit 1; }
.venv/bin/mypy
