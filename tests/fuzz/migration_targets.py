"""What `mindspeed-dpo migrate` reads: a training script and a YAML file of each other trainer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mindspeed_dpo.migration.source_file import Options, convert_file
from mindspeed_dpo.migration.yaml_file import render
from tests.fuzz.target import YAML, Target
from tests.unit.migration.foreign_files import ALIGN_ANYTHING, RL, ROLL, TRL, script

FILES = {
    "migration/dpo.sh": script("--num-experts 4 --moe-layer-freq $((TP * 2))"),
    "migration/trl.sh": TRL,
    "migration/align.sh": ALIGN_ANYTHING,
    "migration/rl.yaml": RL,
    "migration/roll.yaml": ROLL,
}


def write_foreign_files(root: Path) -> None:
    """Write the files of other trainers."""
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _convert(name: str, root: Path) -> None:
    render(convert_file(root / name, Options(num_pairs=1000)), name)


MIGRATION_TARGETS = tuple(
    Target(f"migrate-{Path(name).name}", name, partial(_convert, name), YAML if name.endswith("yaml") else ())
    for name in FILES
)
