#!/usr/bin/env bash
# Preprocess a data set: bash examples/data/preprocess_data.sh orca_rlhf [key=value ...]
# The first word is a file in configs/datasets, or a path to a YAML file; all that follows overrides its keys.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
exec "${PYTHON:-python3}" "$root/preprocess_data.py" "$@"
