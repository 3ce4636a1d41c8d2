"""Resuming: finds the checkpoint that a run continues from, and checks that it fits.

`resume_from` continues a run exactly, in the same output folder. `load` of a training checkpoint without `finetune`, as
in Megatron-LM, continues with the parts that `no_load_optim` and `no_load_rng` leave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import (
    LATEST_WHOLE,
    CheckpointError,
    read_metadata,
)
from mindspeed_dpo.trainers.resuming.resume_checks import (
    changed_reference,
    check_fit,
    check_metadata,
    has_same_layout,
)
from mindspeed_dpo.trainers.resuming.resume_paths import (
    DEFAULT_SAVE,
    is_training_checkpoint,
    newest_checkpoint,
    save_and_output_dir,
)


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run resumes from.

    Example:
        ResumePoint(Path("out/checkpoints/iter_0000040"), 40, optimizer=True, rng=True, metadata={"iteration": 40})

    Attributes:
        folder: Folder of the checkpoint.
        iteration: Steps completed.
        optimizer: Whether to load the optimizer's state.
        rng: Whether to load the random state.
        metadata: Metadata of the checkpoint.
    """

    folder: Path
    iteration: int
    optimizer: bool
    rng: bool
    metadata: dict[str, Any]

    @property
    def totals(self) -> dict[str, int]:
        """Counters of the run so far; empty in checkpoints of earlier versions."""
        return dict(self.metadata.get("totals", {}))


def find_resume_point(run: RunConfig, num_rows: int) -> ResumePoint | None:
    """Find the checkpoint that a run resumes from; None if it starts at step 0.

    Args:
        run: Settings of the run.
        num_rows: Rows of its dataset.

    Raises:
        CheckpointError: The configured path has no checkpoint, or the checkpoint does not fit the run.
    """
    settings, verify = run.actor.checkpoint, run.actor.checkpoint.resume == LATEST_WHOLE
    if settings.resume_from:
        folder, optimizer, rng = newest_checkpoint(Path(settings.resume_from), verify), True, True
    elif settings.load and not settings.finetune and is_training_checkpoint(Path(settings.load)):
        folder = newest_checkpoint(Path(settings.load), verify)
        optimizer, rng = not settings.no_load_optim, not settings.no_load_rng
    else:
        return None
    metadata = read_metadata(folder)
    check_metadata(folder, metadata)
    rng = rng and has_same_layout(run, metadata)
    check_fit(run, num_rows, folder, metadata, optimizer=optimizer, rng=rng)
    return ResumePoint(folder, int(metadata["iteration"]), optimizer, rng, metadata)


def with_own_checkpoints(run: RunConfig) -> RunConfig:
    """Set `resume_from` to the run's own `save` with `resume: latest_whole`, if that has checkpoints."""
    settings = run.actor.checkpoint
    if settings.resume != LATEST_WHOLE or settings.resume_from or not any(Path(settings.save).glob("iter_*")):
        return run
    checkpoint = replace(settings, resume_from=settings.save)
    return replace(run, actor=replace(run.actor, checkpoint=checkpoint))


def with_reference_of(run: RunConfig, resume_point: ResumePoint) -> RunConfig:
    """Set the reference to that of the resumed run, unless another one is configured.

    With `load` of a training checkpoint the initial policy is a trained one, which is not the reference.

    Raises:
        CheckpointError: That reference no longer exists, or has other weights now.
    """
    if run.ref is None:
        return run
    is_configured = run.ref.checkpoint.load != run.actor.checkpoint.load
    earlier = resume_point.metadata["reference"]
    if is_configured or run.actor.checkpoint.resume_from or earlier is None:
        return run
    if not Path(earlier).exists():
        raise CheckpointError(
            f"{resume_point.folder} was trained with the reference {earlier}, which does not exist; set ref_model"
        )
    run = replace(run, ref=replace(run.ref, checkpoint=replace(run.ref.checkpoint, load=earlier)))
    changed = changed_reference(run, resume_point.metadata)
    if changed:
        raise CheckpointError(f"{resume_point.folder} cannot be resumed: {changed}; set ref_model")
    return run


def with_resumed_output_dir(run: RunConfig) -> RunConfig:
    """Set the output folder to that of the resumed run, unless another one is configured."""
    resume_from = run.actor.checkpoint.resume_from
    if not resume_from or "loop.output_dir" in run.origins:
        return run
    save, recorded = save_and_output_dir(Path(resume_from), run.actor.checkpoint.resume == LATEST_WHOLE)
    # The checkpoint's current location counts, not the recorded one: folders may have been moved.
    output_dir = save.parent if save.name == DEFAULT_SAVE else recorded
    if output_dir is None or not output_dir.is_dir():
        return run
    checkpoints = run.actor.checkpoint
    if "actor.save" not in run.origins:
        checkpoints = replace(checkpoints, save=str(save))
    return replace(
        run, loop=replace(run.loop, output_dir=str(output_dir)), actor=replace(run.actor, checkpoint=checkpoints)
    )
