#!/usr/bin/env bash
# Preprocess a dataset: bash examples/data/preprocess_data.sh orca_rlhf [key=value ...]
# The first argument is a file in configs/datasets or the path of a YAML file; the others override its keys.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
exec "${PYTHON:-python3}" "$root/preprocess_data.py" "$@"
