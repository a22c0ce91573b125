#!/usr/bin/env bash
# Set everything up, lint, and run the tests, two files at a time. Options go to pytest: tools/run_tests.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup_env.sh
tools/lint.sh
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
