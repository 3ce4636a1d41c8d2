#!/usr/bin/env bash
# Style, types, docstring rules and layers, with the Python of $PYTHON. Runs all of them and fails if one does.
set -u -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python="${PYTHON:-python}"
failed=()

check() {
    local name="$1"
    shift
    echo "== $name"
    "$@" || failed+=("$name")
}

check "ruff check" "$python" -m ruff check .
check "ruff format" "$python" -m ruff format --check .
check "mypy" "$python" -m mypy
check "docstring rules" "$python" tests/docstring_rules.py
check "import-linter" "$python" -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
