"""Checkpoint folders with their metadata files only, and runs that refer to them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.datasets.sampler import sampling_of
from mindspeed_dpo.engine.checkpoints.checkpoint_commit import begin, finish

NUM_ROWS = 5


def write_checkpoint(root: Path, run: RunConfig, iteration: int, content: bytes = b"", **changes: Any) -> Path:
    """A complete checkpoint of a run, of metadata files only; where the root is `checkpoints`, in its output folder."""
    folder = begin(root, iteration)
    for name in ("metadata.json", "common.pt", ".metadata"):
        (folder / name).write_bytes(content)
    said = {
        "iteration": iteration,
        "sampling": sampling_of(run, NUM_ROWS),
        "optimizer": True,
        "rng": True,
        "reference": os.path.abspath(run.ref.checkpoint.load) if run.ref and run.ref.checkpoint.load else None,
        "model": run.actor.model.as_dict(),
        "topology": {
            "tp": run.actor.parallel.tensor_model_parallel_size,
            "pp": run.actor.parallel.pipeline_model_parallel_size,
            "dp": run.data_parallel_size("actor"),
        },
        "output_dir": os.path.abspath(run.loop.output_dir),
    }
    finish(root, iteration, {**said, **changes})
    if root.name == "checkpoints":
        (root.parent / "config.yaml").write_text(run.as_yaml())
    return root / f"iter_{iteration:07d}"


def asking(run: RunConfig, **changes: Any) -> RunConfig:
    """The run with other settings of its checkpoints."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in changes.items()}
    return replace(run, actor=replace(run.actor, checkpoint=replace(run.actor.checkpoint, **plain)))
