"""Where a run begins: at step 0, or where an earlier one stopped.

`resume_from` continues a run exactly, in the same output folder. `load` of a training checkpoint without `finetune`,
the older way, continues with the parts that `no_load_optim` and `no_load_rng` leave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.engine.checkpoint_files import METADATA, TRACKER, CheckpointError, latest, read_metadata


@dataclass(frozen=True)
class Continuation:
    """An earlier run's checkpoint.

    Attributes:
        folder: Of the checkpoint.
        iteration: Steps it holds.
        optimizer: Whether to read the optimizer's state.
        rng: Whether to read the random state.
        metadata: What the checkpoint says about itself.
    """

    folder: Path
    iteration: int
    optimizer: bool
    rng: bool
    metadata: dict[str, Any]


def find_continuation(run: RunConfig, num_rows: int) -> Continuation | None:
    """The checkpoint a run continues from, or None if it starts at step 0.

    Args:
        run: The run.
        num_rows: Rows of its dataset.

    Raises:
        CheckpointError: There is none where one is named, or it belongs to a run that samples differently.
    """
    settings = run.actor.checkpoint
    if settings.resume_from:
        folder, optimizer, rng = _newest_below(Path(settings.resume_from)), True, True
    elif settings.load and not settings.finetune and _is_training_checkpoint(Path(settings.load)):
        folder = _newest_below(Path(settings.load))
        optimizer, rng = not settings.no_load_optim, not settings.no_load_rng
    else:
        return None
    metadata = read_metadata(folder)
    _check_same_sampling(run, num_rows, folder, metadata)
    return Continuation(folder, int(metadata["iteration"]), optimizer, rng, metadata)


def check_fresh_save(run: RunConfig) -> None:
    """See that a run which starts at step 0 does not write between another run's checkpoints.

    Raises:
        CheckpointError: It would.
    """
    save = Path(run.actor.checkpoint.save)
    if (save / TRACKER).is_file():
        raise CheckpointError(
            f"{save} holds the checkpoints of another run; continue that one with resume_from={save}, "
            "choose another output_dir or save, or move them away"
        )


def with_reference_of(run: RunConfig, found: Continuation) -> RunConfig:
    """The run with the reference of the run it continues, where it names none of its own.

    With `load` of a training checkpoint the policy to start from is a trained one, and no reference.
    """
    assert run.ref is not None
    names_its_own = run.ref.checkpoint.load != run.actor.checkpoint.load
    earlier = found.metadata["reference"]
    if names_its_own or run.actor.checkpoint.resume_from or earlier is None:
        return run
    if not Path(earlier).exists():
        raise CheckpointError(
            f"{found.folder} was trained against {earlier}, which is not there; name it with ref_model"
        )
    return replace(run, ref=replace(run.ref, checkpoint=replace(run.ref.checkpoint, load=earlier)))


def continued_in_place(run: RunConfig) -> RunConfig:
    """The run with the output folder of the one it resumes, unless it was given one of its own."""
    resume_from = run.actor.checkpoint.resume_from
    if not resume_from or "loop.output_dir" in run.origins:
        return run
    output_dir = _output_dir_of(Path(resume_from))
    if output_dir is None:
        return run
    checkpoints = run.actor.checkpoint
    if "actor.save" not in run.origins:
        checkpoints = replace(checkpoints, save=str(output_dir / "checkpoints"))
    return replace(
        run, loop=replace(run.loop, output_dir=str(output_dir)), actor=replace(run.actor, checkpoint=checkpoints)
    )


def _output_dir_of(path: Path) -> Path | None:
    """The run's folder, from itself, from its checkpoints or from one of these."""
    for candidate in (path, path.parent, path.parent.parent):
        if (candidate / "checkpoints" / TRACKER).is_file():
            return candidate
    return None


def _newest_below(path: Path) -> Path:
    if (path / METADATA).is_file():
        read_metadata(path)
        return path
    return latest(path / "checkpoints" if (path / "checkpoints").is_dir() else path)


def _is_training_checkpoint(path: Path) -> bool:
    if (path / METADATA).is_file():
        return True
    tracker = path / TRACKER
    if not tracker.is_file() or not tracker.read_text().strip().isdigit():
        return False
    return (path / f"iter_{int(tracker.read_text()):07d}" / METADATA).is_file()


def _check_same_sampling(run: RunConfig, num_rows: int, folder: Path, saved: dict[str, Any]) -> None:
    now = {"global_batch_size": run.actor.batch.global_batch_size, "seed": run.loop.seed, "rows": num_rows}
    changed = [f"{key} was {saved[key]}, is {value}" for key, value in now.items() if saved[key] != value]
    if changed:
        raise CheckpointError(
            f"{folder} cannot be continued, its data order would change: {'; '.join(changed)}. "
            "Restore these values, or start anew from its weights with load and finetune=true"
        )
