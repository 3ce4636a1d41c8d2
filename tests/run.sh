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
environment_s=$SECONDS

# A misplaced blank must not hide a broken test: both run, either fails. The checks run beside the tests, as a compiler's
# cache is of no use to a first run.
report="$(mktemp)"
(
    begin=$SECONDS
    PYTHON="$venv/bin/python" bash tests/check.sh && code=0 || code=$?
    echo "== checks took $((SECONDS - begin)) s"
    exit "$code"
) >"$report" 2>&1 &
checker=$!
trap 'kill "$checker" 2>/dev/null; rm -f "$report"' EXIT

echo "== tests"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# Hundreds of processes import the package and the tests; none should have to compile them.
unset PYTHONDONTWRITEBYTECODE
# Tests start the command lines as users do, so the environment's programs come first.
export PATH="$venv/bin:$PATH"
if (($# == 0)); then
    # As many workers as there are cores and one more, as those that start Ray wait more than they compute; five at most,
    # as each starts pools of processes of its own. The order is that of tests/xdist_order.py.
    cores="$("$venv/bin/python" -c "import os; print(len(os.sched_getaffinity(0)))")"
    workers=$((cores < 4 ? cores + 1 : 5))
    set -- --numprocesses "$workers" --dist loadfile --no-loadscope-reorder --durations 20
fi
begin=$SECONDS
tests=passed
"$venv/bin/python" -m pytest "$@" || tests=failed
tests_s=$((SECONDS - begin))

checks=passed
wait "$checker" || checks=failed
trap 'rm -f "$report"' EXIT
cat "$report"
echo "== seconds: environment $environment_s, tests $tests_s, checks beside them, $SECONDS in all"
echo "== checks $checks, tests $tests"
[[ $checks == passed && $tests == passed ]]
