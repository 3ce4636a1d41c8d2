"""Every benchmark of training runs at a tiny size, without TRL, and prints its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "offline": "--size tiny --pairs 2 --batch 2 --sides cached",
    "head": "--vocab 512 --rows 8 --hidden 16",
    "limit": "--size tiny --pairs 2",
    "online": "--size tiny --batch 2 --steps 1 --max-new 4 --mean-new 2",
    "scaling": "--size tiny --tables responses ranks --pairs 1 --lengths 32 --responses 3 --ranks 2",
    "endurance": "--steps 10 --bound 100000",
    "digests": "--mib 16 --rounds 2",
}
NEEDS_DATA = {"offline", "limit"}


def pair(word: str) -> dict[str, object]:
    return {
        "conversations": [{"from": "human", "value": f"{word} what"}],
        "chosen": {"from": "gpt", "value": f"{word} yes"},
        "rejected": {"from": "gpt", "value": f"no {word} at all"},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_measures_and_says_where(name: str, tmp_path: Path) -> None:
    data = tmp_path / "pairs.json"
    data.write_text(json.dumps([pair("one"), pair("two")]), encoding="utf-8")
    words = TINY[name].split() + (["--data", str(data)] if name in NEEDS_DATA else [])
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Python 3" in " ".join(done.stdout.split())  # the line may be broken anywhere
