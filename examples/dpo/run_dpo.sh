#!/usr/bin/env bash
# Offline DPO on one node or several: NPUS_PER_NODE=8 bash examples/dpo/run_dpo.sh [section.key=value ...]
# CONFIG_NAME is a file of configs/rlxf; the other variables are those of examples/cluster/settings.sh.
set -euo pipefail
export CONFIG_NAME="${CONFIG_NAME:-offline_dpo_trainer_qwen25_7b}"
exec bash "$(dirname "${BASH_SOURCE[0]}")/../cluster/run.sh" "$@"
