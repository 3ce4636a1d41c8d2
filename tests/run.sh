#!/usr/bin/env bash
# Sets itself up and runs all checks and tests: bash tests/run.sh [pytest arguments]
#
# Environment:
#   VENV    virtual environment to make and use (default: .venv-test beside this repository's files)
#   VLLM_VENV  virtual environment of vLLM to make and use, e.g. .venv-vllm (default: none; .ci/run sets it). It is made
#           after the other tests, which takes a minute or two and 3.4 GB. Without it, and where the package index has no
#           vLLM for this processor and Python, the tests that need it are skipped, and say so
#   VLLM_VENV_S  seconds after which making it is given up, which is a failure (default: 900)
#   PYTHON, TORCH_REQUIREMENT, VLLM_REQUIREMENT: see examples/environment.sh
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

vllm_venv="${VLLM_VENV:-none}"

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

# Without its environment the tests of vLLM would be skipped, which must not look like success, unless none can be had.
prepare_vllm() {
    local code=0
    timeout "${VLLM_VENV_S:-900}" bash -c 'source examples/environment.sh; make_vllm_environment "$1"' _ "$vllm_venv" ||
        code=$?
    if ((code == 0)); then
        export TEST_VLLM_PYTHON="$vllm_venv/bin/python"
    elif ((code == NO_VLLM)); then
        echo "the package index has no vLLM for this machine: its tests are skipped"
    else
        echo "the environment of vLLM could not be made (code $code); VLLM_VENV=none leaves its tests out" >&2
        tests=failed
    fi
}

echo "== tests"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# Hundreds of processes import the package and the tests; none should have to compile them.
unset PYTHONDONTWRITEBYTECODE
# Tests start the command lines as users do, so the environment's programs come first.
export PATH="$venv/bin:$PATH"
all=$(($# == 0))
if ((all)); then
    # As many workers as there are cores and one more, as those that start Ray wait more than they compute; five at most,
    # as each starts pools of processes of its own. The order is that of tests/xdist_order.py.
    cores="$("$venv/bin/python" -c "import os; print(len(os.sched_getaffinity(0)))")"
    workers=$((cores < 4 ? cores + 1 : 5))
    set -- --numprocesses "$workers" --dist loadfile --no-loadscope-reorder --durations 20
fi
begin=$SECONDS
tests=passed
if ! ((all)) && [[ -x $vllm_venv/bin/python ]]; then
    export TEST_VLLM_PYTHON="$vllm_venv/bin/python"
fi
"$venv/bin/python" -m pytest "$@" || tests=failed
tests_s=$((SECONDS - begin))

begin=$SECONDS
if ((all)) && [[ $vllm_venv != none ]]; then
    echo "== environment and tests of vLLM"
    prepare_vllm
    echo "== the environment of vLLM took $((SECONDS - begin)) s"
    "$venv/bin/python" -m pytest tests/distributed/test_vllm_{rollout,learning,judge}.py || tests=failed
fi
vllm_s=$((SECONDS - begin))

checks=passed
wait "$checker" || checks=failed
trap 'rm -f "$report"' EXIT
cat "$report"
echo "== seconds: environment $environment_s, tests $tests_s, those of vLLM $vllm_s, checks beside them, $SECONDS in all"
echo "== checks $checks, tests $tests"
[[ $checks == passed && $tests == passed ]]
