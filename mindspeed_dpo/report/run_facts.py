"""`run.json`: what a run knows of itself at its start and no other file holds, for its report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mindspeed_dpo.report.histograms import Histogram
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import has_file

RUN_FILE = "run.json"


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run at its start, for example `RunFacts(plan=["plan: dpo, 24 steps"])`.

    Attributes:
        plan: Lines of the plan: layout, workload and memory.
        notes: Settings without effect, or read as something else.
        environment: Versions and machine.
        lengths: Name to the histogram of lengths in tokens of the training data.
        first_step: Steps that an earlier run had completed.
    """

    plan: Sequence[str] = ()
    notes: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, Histogram] = field(default_factory=dict)
    first_step: int = 0

    def write(self, folder: Path) -> None:
        """Write the file of a run's folder.

        Raises:
            OSError: It cannot be written.
        """
        write_text_atomically(folder / RUN_FILE, json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")


def read_run_facts(folder: Path) -> RunFacts:
    """Read the file of a run's folder; runs of older versions have none, and no facts.

    Raises:
        MalformedDataError: It is damaged; the message names it.
    """
    path = folder / RUN_FILE
    if not has_file(path):
        return RunFacts()
    content = read_json_object(path)
    environment, lengths = content.section("environment"), content.section("lengths")
    return RunFacts(
        plan=content.texts("plan"),
        notes=content.texts("notes"),
        environment={name: environment.text(name) for name in environment},
        lengths={name: Histogram.read(lengths.section(name)) for name in lengths},
        first_step=content.integer("first_step", minimum=0),
    )
