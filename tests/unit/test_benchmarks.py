"""Every benchmark runs at a tiny size, without TRL, and prints its table; `make bench` finds each."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.forked_scripts import run_forked

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "offline": "--size tiny --pairs 2 --batch 2 --sides cached",
    "head": "--vocab 512 --rows 8 --hidden 16",
    "rollout_speed": "--size tiny-moe --scenario equal --prompts 2 --rounds 1 --batch 4 --decode-rows 4",
    "limit": "--size tiny --pairs 2",
    "online": "--size tiny --batch 2 --steps 1 --max-new 4 --mean-new 2",
    "scaling": "--size tiny --tables responses ranks --pairs 1 --lengths 32 --responses 3 --ranks 2",
    "endurance": "--steps 10 --bound 100000",
    "digests": "--mib 16 --rounds 2",
    "overlap": "--size tiny --steps 3 --batch 2 --max-new 4 --sides ahead-async-save",
}
NEEDS_DATA = {"offline", "limit"}


def pair(word: str) -> dict[str, object]:
    return {
        "conversations": [{"from": "human", "value": f"{word} what"}],
        "chosen": {"from": "gpt", "value": f"{word} yes"},
        "rejected": {"from": "gpt", "value": f"no {word} at all"},
    }


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_finds_the_script_of_every_benchmark_that_is_documented() -> None:
    documents = [ROOT / "Makefile", *ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    text = "".join(document.read_text(encoding="utf-8") for document in documents)
    names = set(re.findall(r"make bench BENCH=(\w+)", text)) | TINY.keys()
    assert "rollout" in names
    for name in names:
        command = ["make", "--dry-run", "--no-print-directory", "bench", f"BENCH={name}"]
        line = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        (script,) = re.findall(r"benchmarks/\w+\.py", line)
        assert (ROOT / script).is_file(), script
        assert ("--data" in line) == (name in NEEDS_DATA)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_measures_and_says_where(name: str, tmp_path: Path) -> None:
    data = tmp_path / "pairs.json"
    data.write_text(json.dumps([pair("one"), pair("two")]), encoding="utf-8")
    words = TINY[name].split() + (["--data", str(data)] if name in NEEDS_DATA else [])
    code, printed = run_forked(ROOT / "benchmarks" / f"{name}.py", words, tmp_path)
    assert code == 0, printed[-3000:]
    assert "Python 3" in " ".join(printed.split())  # the line may be broken anywhere
