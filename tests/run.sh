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
    # As many at a time as there are cores, four at most: each worker starts pools of processes of its own. Those that
    # start Ray come alone, one after the other.
    "$venv/bin/python" -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --ignore tests/end_to_end ||
        tests=failed
    "$venv/bin/python" -m pytest tests/end_to_end || tests=failed
fi

echo "== checks $checks, tests $tests"
[[ $checks == passed && $tests == passed ]]
