"""The recorded data of this repository, and how it is read."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).resolve().parent / "data"
POLICY, REFERENCE = DATA / "policy", DATA / "reference"


def read_rows(name: str) -> list[dict[str, Any]]:
    """The raw rows of a data file, such as `preferences.jsonl`."""
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@lru_cache(maxsize=64)
def recording(case: str, folder: Path = DATA) -> dict[str, Any]:
    """What TRL did in a case, in float32 (docs/numerics.md says what each entry is)."""
    return _read(folder / "cases" / f"{case}.json")


@lru_cache(maxsize=64)
def in_float64(case: str, folder: Path = DATA) -> dict[str, Any]:
    """The same run in float64, and under `distance` how far the recording is from it."""
    return _read(folder / "float64" / f"{case}.json")


def role_folder(case: dict[str, Any], role: str) -> Path:
    """The folder of a case's `policy` or `reference`; the Llama where the case names no other model."""
    return DATA / case.get("model", "") / role


@lru_cache(maxsize=4)
def weights_in(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder, float32."""
    return load_file(folder / "model.safetensors")


def initial_weights(case: dict[str, Any]) -> dict[str, Tensor]:
    """The policy's weights before the first step, float32."""
    return weights_in(role_folder(case, "policy"))


def final_weights(case: str, folder: Path = DATA) -> dict[str, Tensor] | None:
    """The policy's weights after the last step, where they are stored."""
    path = folder / "cases" / f"{case}.final.safetensors"
    return load_file(path) if path.exists() else None


def write_compact(path: Path, value: dict[str, Any]) -> None:
    """JSON without blanks, one line per entry of the outer object, floats that read back to the same bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(key)}:{json.dumps(entry, separators=(',', ':'))}" for key, entry in value.items()]
    path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
