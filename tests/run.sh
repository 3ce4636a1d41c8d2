#!/usr/bin/env bash
# Sets itself up and runs all checks and tests: bash tests/run.sh [pytest arguments]
#
# Environment:
#   VENV    virtual environment to make and use (default: .venv-test beside this repository's files)
#   PYTHON, TORCH_REQUIREMENT: see examples/environment.sh
set -euo pipefail
exec </dev/null
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=examples/environment.sh
source examples/environment.sh

venv="${VENV:-$root/.venv-test}"
echo "== environment"
make_environment "$venv" "[test]"

# A misplaced blank must not hide a broken test: both run, either fails.
checks=passed
PYTHON="$venv/bin/python" bash tests/check.sh || checks=failed

echo "== tests"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# Tests start the command lines as users do, so the environment's programs come first.
export PATH="$venv/bin:$PATH"
tests=passed
if (($#)); then
    "$venv/bin/python" -m pytest "$@" || tests=failed
else
    # Two streams at once. Those that start Ray come one after the other, and wait more than they compute; of the rest as
    # many at a time as there are cores, four at most: each worker starts pools of processes of its own.
    told="$(mktemp)"
    "$venv/bin/python" -m pytest tests/end_to_end >"$told" 2>&1 &
    runs=$!
    trap 'kill "$runs" 2>/dev/null; rm -f "$told"' EXIT
    "$venv/bin/python" -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --ignore tests/end_to_end ||
        tests=failed
    wait "$runs" || tests=failed
    trap 'rm -f "$told"' EXIT
    cat "$told"
fi

echo "== checks $checks, tests $tests"
[[ $checks == passed && $tests == passed ]]
